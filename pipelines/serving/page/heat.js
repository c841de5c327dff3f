// The map of where the model looks, laid over a picture at a hover, a focus or a tap.
import { attention } from "./api.js";
import { make, toast } from "./dom.js";

/** Lay one map over a frame's picture, or take it away with attribute null. */
export async function showMap(frame, query, attribute) {
  frame.dataset.wanted = attribute ?? "";
  const isWanted = () => frame.dataset.wanted === attribute; // the pointer may go on meanwhile
  frame.classList.toggle("mapping", Boolean(attribute));
  if (!attribute) return frame.classList.remove("mapped");
  try {
    const map = frame.querySelector(".map") ?? frame.appendChild(make("img.map", { alt: "" }));
    if (map.dataset.of !== attribute) {
      const source = URL.createObjectURL(await attention(query, attribute));
      if (!isWanted()) return URL.revokeObjectURL(source);
      map.src = source;
      map.dataset.of = attribute;
      await map.decode().catch(() => {}); // refused where the card went away meanwhile
      map.style.width = `${100 * seenShare(frame)}%`;
      URL.revokeObjectURL(source);
    }
    if (isWanted()) frame.classList.add("mapped");
  } catch (error) {
    if (isWanted()) toast(error.message);
  } finally {
    if (isWanted()) frame.classList.remove("mapping");
  }
}

/** Side of what the model sees, the picture's centre square, as a share of the frame's width. */
function seenShare(frame) {
  const { naturalWidth, naturalHeight } = frame.querySelector(".photo");
  const ratio = naturalWidth / naturalHeight || 1; // 0 / 0 where there is no picture
  return Math.min(1, 1 / ratio, (ratio * frame.clientHeight) / frame.clientWidth);
}

/**
 * Make a button show the map: while a mouse is over it or the keyboard is on it, and for good after a press.
 * `attribute` is a function, since the search may have changed.
 */
export function mapOnLook(button, query, attribute) {
  const isPinned = () => button.getAttribute("aria-pressed") === "true";
  const show = () => showMap(button, query, attribute());
  const hide = () => isPinned() || showMap(button, query, null);
  const ofMouse = (act) => (event) => event.pointerType === "mouse" && act();
  Object.assign(button, {
    onpointerenter: ofMouse(show),
    onpointerleave: ofMouse(hide),
    onfocus: () => button.matches(":focus-visible") && show(),
    onblur: hide,
    onclick: () => {
      button.setAttribute("aria-pressed", String(!isPinned()));
      (isPinned() ? show : hide)();
    },
  });
  button.setAttribute("aria-pressed", "false");
}
