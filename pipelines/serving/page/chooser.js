// How a picture comes in: chosen, dropped anywhere, or pasted.
import { byId } from "./dom.js";
import { Refused } from "./api.js";

/** Listen for pictures: `take` is given a file that the browser can show, `refuse` what is wrong and what to do. */
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
  document.onpaste = ({ clipboardData: { files } }) => files.length && offer(files[0]);
  listenForDrops(offer, refuse);
}

function listenForDrops(offer, refuse) {
  const landing = byId("landing");
  document.ondragover = (event) => {
    event.preventDefault();
    landing.hidden = false;
  };
  document.ondragleave = (event) => (landing.hidden ||= !event.relatedTarget);
  document.ondrop = (event) => {
    event.preventDefault();
    landing.hidden = true;
    const [file] = event.dataTransfer.files;
    if (file) offer(file);
    else refuse(new Refused("That was a link, not a file. Save the picture first, then drop the file here."));
  };
}

function notAPicture({ name, type }) {
  const isPhone = /\.hei[cf]$/i.test(name) || /hei[cf]/.test(type);
  const hint = isPhone ? "Export the photo as JPEG first." : "Choose a JPEG, PNG or WebP file.";
  return new Refused(`\u201c${name || "What you dropped"}\u201d is not a picture that can be read. ${hint}`);
}
