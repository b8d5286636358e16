/** Keys of a slide's pane; they work while it has the focus, so they never get in anybody's way. */

/** [keys, text of the help, what is done with the pane]. */
export const KEYS = [
  [["ArrowLeft"], "key_pan", (pane) => pane.pan(-1, 0)],
  [["ArrowRight"], null, (pane) => pane.pan(1, 0)],
  [["ArrowUp"], null, (pane) => pane.pan(0, -1)],
  [["ArrowDown"], null, (pane) => pane.pan(0, 1)],
  [["+", "="], "key_zoom_in", (pane) => pane.zoom(1.5)],
  [["-", "_"], "key_zoom_out", (pane) => pane.zoom(1 / 1.5)],
  [["0", "Home"], "key_home", (pane) => pane.home()],
  [["r"], "key_turn", (pane) => pane.turn(90)],
  [["R"], "key_turn_back", (pane) => pane.turn(-90)],
  [["h"], "key_head", (pane) => pane.page.nextHead(1)],
  [["H"], "key_head_back", (pane) => pane.page.nextHead(-1)],
  [["a"], "key_class", (pane) => pane.page.nextClass()],
  [["v"], "key_value", (pane) => pane.page.toggleValue()],
  [["]"], "key_more", (pane) => pane.page.changeOpacity(0.1)],
  [["["], "key_less", (pane) => pane.page.changeOpacity(-0.1)],
  [["o"], "key_outlines", (pane) => pane.page.toggle("outlines")],
  [["m"], "key_tissue", (pane) => pane.page.toggle("tissue")],
  [["f"], "key_flaws", (pane) => pane.page.toggle("flaws")],
  [["n"], "key_next", (pane) => pane.page.flyNext(1)],
  [["p"], "key_previous", (pane) => pane.page.flyNext(-1)],
  [["c"], "key_compare", (pane) => pane.page.toggleCompare()],
  [["l"], "key_link", (pane) => pane.page.toggle("linked")],
  [["e"], "key_export", (pane) => pane.page.exportView()],
  [["?"], "key_help", (pane) => pane.page.help()],
];

/** Do what the key is for; whether it is for anything. */
export function onKey(event, pane) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const found = KEYS.find(([keys]) => keys.includes(event.key));
  found?.[2](pane);
  return found !== undefined;
}
