// How a picture comes in: chosen, dropped anywhere, or pasted.
import { byId } from "./dom.js";

const SIDE = 1024; // pixels of the longer side; the model looks at some hundred

/** Listen for pictures: `take` is given one no larger than the service needs, `refuse` what is wrong and what to do. */
export function listenForPictures(take, refuse) {
  const offer = async (file) => take(await shrunk(file).catch(() => file)); // the service reads other kinds, or says no
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
    else refuse(new Error("That was a link, not a file. Save the picture first, then drop the file here."));
  };
}

/** A smaller copy of a large picture, upright and over white as the service would see it. */
async function shrunk(file) {
  const picture = await createImageBitmap(file);
  const scale = SIDE / Math.max(picture.width, picture.height);
  if (scale >= 1) return file;
  const [width, height] = [picture.width, picture.height].map((side) => Math.round(side * scale));
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(picture, 0, 0, width, height);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
}
