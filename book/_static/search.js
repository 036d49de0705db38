// A page opened from the file system may not read its neighbours, so the search cannot quote them.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
