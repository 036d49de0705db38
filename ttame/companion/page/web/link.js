// The state of the page in its address, after the hash, so that a link brings it back.

const MARK = "#explore?";

/** Read the state that the address holds: a Map of texts, or null. */
export const readLink = () => {
  if (!location.hash.startsWith(MARK)) return null;
  return new Map(new URLSearchParams(location.hash.slice(MARK.length)));
};

/** Write a state into the address, without a step in the history. */
export const writeLink = (values) => {
  const text = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== undefined));
  history.replaceState(history.state, "", `${MARK}${text}`);
};
