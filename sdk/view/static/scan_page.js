/** A slide while it is scanned: which fields of view have come, and what the heads say so far. */
import { addressHash } from "./address.js";
import { el } from "./dom.js";
import { listen } from "./events.js";
import { pageHead } from "./page_head.js";
import { callText, probabilityScale } from "./predictions.js";
import { number, t } from "./texts.js";

const NEWEST = 24;

export class ScanPage {
  constructor(host, context) {
    this.canvas = el("canvas", { role: "img", "aria-label": t("scan_picture") });
    this.answers = el("ul", { class: "answers" });
    this.note = el("p", { class: "quiet" }, t("scan_interval"));
    this.counts = el("dl");
    this.state = el("p", { role: "status" }, t("scan_none"));
    this.heading = el("h1", {}, t("scan"));
    host.append(pageHead(context, el("a", { href: "#/", class: "back" }, t("back")), this.heading),
      el("main", { class: "slide scan" }, el("div", { class: "scan-stage" }, this.canvas),
        el("aside", { "aria-label": t("panel") }, this.state, el("h2", {}, t("answers")),
          el("p", { class: "quiet" }, t("common.research_use")), this.answers, this.note,
          el("h2", {}, t("scan_counts")), this.counts)));
    document.title = `${t("scan")} – ${t("title")}`;
    this.stops = [listen("scan", (event) => this.begin(event)),
      listen("progress", (event) => this.progress(event))];
  }

  begin(scan) {
    this.scan = scan;
    this.heading.textContent = `${t("scan")}: ${scan.slide}`;
    const scale = 1600 / Math.max(...scan.size_px);
    this.scale = scale;
    const [width, height] = scan.size_px.map((side) => Math.round(side * scale));
    Object.assign(this.canvas, { width, height });
    this.picture = new Image();
    this.picture.onload = () => this.draw();
    this.picture.src = "/api/scan/picture";
    this.draw();
  }

  progress(now) {
    this.now = now;
    this.note.hidden = now.done;
    const all = this.scan?.places.length ?? now.pushes;
    this.state.replaceChildren(now.done ? t("scan_done", { seconds: number(now.seconds, 1) })
      : t("scan_running", { seconds: number(now.seconds, 0) }), " ",
    now.done && this.scan ? el("a", { href: addressHash({ name: this.scan.slide }) },
      t("scan_open")) : "");
    this.counts.replaceChildren(...[["scan_pushed", `${number(now.pushes)} / ${number(all)}`],
      ["scan_encoded", number(now.encoded)], ["scan_waiting", number(now.waiting)],
      ["scan_deferred", number(now.deferred)]].flatMap(([key, value]) =>
      [el("dt", {}, t(key)), el("dd", {}, value)]));
    this.answers.replaceChildren(...now.interim.map((one) => el("li", { class: "answer-box" },
      el("b", {}, one.gene ?? one.head), " ", callText(one), probabilityScale(one))));
    this.draw();
  }

  /** The slide's picture where it has been scanned; what came last in a frame of colour. */
  draw() {
    const { scan, canvas, scale } = this;
    if (!scan) return;
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#d3d7de";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const pushes = Math.min(this.now?.pushes ?? 0, scan.places.length);
    if (pushes > 0) {
      context.save();
      context.beginPath();
      for (const [x, y, width, height] of scan.places.slice(0, pushes)) {
        context.rect(x * scale, y * scale, width * scale, height * scale);
      }
      context.clip();
      context.fillStyle = "#f4f5f7";
      context.fillRect(0, 0, canvas.width, canvas.height);
      if (this.picture.complete && this.picture.naturalWidth > 0) {
        context.drawImage(this.picture, 0, 0, canvas.width, canvas.height);
      }
      context.restore();
    }
    if (this.now?.done) return;
    context.strokeStyle = "#1c4f9c";
    context.lineWidth = 3;
    const newest = Math.min(NEWEST, Math.ceil(scan.places.length / 10));
    for (const [x, y, width, height] of scan.places.slice(Math.max(0, pushes - newest), pushes)) {
      context.strokeRect(x * scale, y * scale, width * scale, height * scale);
    }
  }

  close() {
    for (const stop of this.stops) stop();
  }
}
