// How a picture comes in: chosen, dropped anywhere, or pasted.
import { byId } from "./dom.js";
import { Refused } from "./api.js";

/**
 * Listen for pictures.
 * @param {(file: File) => void} take is given a file that the browser can show
 * @param {(error: Refused) => void} refuse is told what is wrong and what to do
 */
export function listenForPictures(take, refuse) {
  const offer = async (file) => {
    try {
      (await createImageBitmap(file)).close();
    } catch {
      return refuse(notAPicture(file));
    }
    take(file);
  };
  const input = byId("file");
  input.onchange = () => {
    if (input.files.length) offer(input.files[0]);
    input.value = ""; // the same file can be chosen again
  };
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (file) offer(file);
  });
  listenForDrops(offer, refuse);
}

function listenForDrops(offer, refuse) {
  const landing = byId("landing");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    landing.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) landing.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    landing.hidden = true;
    const [file] = event.dataTransfer.files;
    if (file) offer(file);
    else refuse(new Refused("That was a link, not a file. Save the picture first, then drop the file here."));
  });
}

function notAPicture({ name, type }) {
  const isPhone = /\.hei[cf]$/i.test(name) || /hei[cf]/.test(type);
  const hint = isPhone ? "Export the photo as JPEG first, then drop it again." : "Choose a JPEG, PNG or WebP file.";
  return new Refused(`\u201c${name || "What you dropped"}\u201d is not a picture that can be read. ${hint}`);
}
