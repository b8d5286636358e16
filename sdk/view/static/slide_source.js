/** Where OpenSeadragon gets a slide's squares, or the report's picture of it. */
import { resultPath } from "./api.js";

const SMALLEST_LEVEL = 8;

/** The squares of `slide` (what the server said of it), of the file as it was then. */
export function slideSource(name, slide) {
  const identity = encodeURIComponent(slide.identity);
  return {
    width: slide.size_px[0],
    height: slide.size_px[1],
    tileSize: slide.tile_px,
    tileOverlap: 0,
    minLevel: Math.min(SMALLEST_LEVEL, slide.top_level),
    maxLevel: slide.top_level,
    getTileUrl: (level, column, row) =>
      `${resultPath(name, "tiles", level, column, row)}?v=${identity}`,
  };
}

/** The report's own picture of a head. */
export const pictureSource = (name, number) =>
  ({ type: "image", url: resultPath(name, "picture", number), buildPyramid: false });

const STILL = matchMedia("(prefers-reduced-motion: reduce)");

/** OpenSeadragon on `element`, without buttons and keys of its own. */
export function makeViewer(element) {
  // OpenSeadragon adds a rule that hides the focus on touch screens unless it finds this element.
  // The page's security policy would refuse it, with a message; of no namespace, it is no style.
  if (!document.querySelector("style[data-openseadragon-mobile-css]")) {
    const mark = document.createElementNS(null, "style");
    mark.setAttribute("data-openseadragon-mobile-css", "");
    document.head.append(mark);
  }
  return OpenSeadragon({
    element,
    drawer: "canvas",
    showNavigationControl: false,
    showNavigator: true,
    navigatorPosition: "TOP_RIGHT",
    navigatorWidth: "160px",
    navigatorHeight: "120px",
    navigatorAutoFade: false,
    navigatorBackground: "#ffffff",
    navigatorBorderColor: "#7a8292",
    navigatorDisplayRegionColor: "#a3140d",
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    gestureSettingsPen: { clickToZoom: false },
    preserveImageSizeOnResize: true,
    animationTime: STILL.matches ? 0 : 0.5,
    springStiffness: 9,
    imageLoaderLimit: 6,
    maxImageCacheCount: 300,
    timeout: 90_000,
    visibilityRatio: 0.25,
    minZoomImageRatio: 0.7,
    maxZoomPixelRatio: 6,
    zoomPerScroll: 1.25,
    placeholderFillStyle: "#f4f5f7",
  });
}
