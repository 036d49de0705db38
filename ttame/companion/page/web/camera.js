// The computer's camera: pictures for the network, shown to nobody else.

/**
 * Make the camera's button work, where the browser has a camera to offer.
 *
 * @param open Called with a list of files: the picture taken.
 * @param fail Called with a sentence where the camera cannot be used.
 */
export const wireCamera = (root, { open, fail }) => {
  const find = (selector) => root.querySelector(selector);
  const [button, finder, video] = [".tx-webcam", ".tx-viewfinder", "video"].map(find);
  if (!navigator.mediaDevices?.getUserMedia) return;
  button.hidden = false;
  const shut = () => {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
    finder.hidden = true;
    button.hidden = false;
  };
  button.addEventListener("click", async () => {
    button.hidden = true;
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
      finder.hidden = false;
    } catch (error) {
      shut();
      fail(`The camera cannot be used (${error.name}): allow it in the browser, or choose a file.`);
    }
  });
  find(".tx-shut").addEventListener("click", shut);
  find(".tx-shoot").addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    if (canvas.width === 0) return; // nothing has come from the camera yet
    canvas.getContext("2d").drawImage(video, 0, 0);
    shut();
    canvas.toBlob((blob) => open([new File([blob], "camera.png", { type: "image/png" })]), "image/png");
  });
};
