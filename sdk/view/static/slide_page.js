/** A slide with the answer on it, alone or beside another. */
import { addressHash } from "./address.js";
import { getJson } from "./api.js";
import { el, say } from "./dom.js";
import { listen } from "./events.js";
import { save, viewAsPng } from "./export_png.js";
import { Gallery } from "./gallery.js";
import { helpDialog } from "./help.js";
import { LinkedViews } from "./link_views.js";
import { pageHead } from "./page_head.js";
import { Pane } from "./pane.js";
import { fillPaneTitle } from "./pane_title.js";
import { whyNot } from "./predictions.js";
import { SidePanel } from "./side_panel.js";
import { t } from "./texts.js";

const ADDRESS_EVERY_MS = 250;

export class SlidePage {
  constructor(host, context, address) {
    this.host = host;
    this.context = context;
    this.settings = { colours: context.facts.colours, value: address.value,
      opacity: address.opacity === null ? 0.5 : Math.min(1, Math.max(0, address.opacity / 100)),
      outlines: false, tissue: false, flaws: false,
      linked: true };
    this.panes = [];
    this.gallery = new Gallery();
    this.panel = new SidePanel(this);
    this.flown = -1;
    this.heading = el("h1", {}, address.name);
    this.compareButton = el("button", { type: "button", "aria-pressed": "false",
      onclick: () => this.toggleCompare() }, t("compare"));
    this.exportButton = el("button", { type: "button", onclick: () => this.exportView() },
      t("export"));
    this.stages = el("div", { class: "stages" });
    this.news = el("div", { class: "notices", role: "status" });
    this.main = el("main", { class: "slide" }, this.stages, this.panel.element);
    host.append(pageHead(context, el("a", { href: "#/", class: "back" }, t("back")), this.heading,
      this.compareButton, this.exportButton,
      el("button", { type: "button", onclick: () => this.help() }, t("help"))), this.news, this.main);
    this.stop = listen("results", (event) => this.resultsChanged(event));
    this.start(address);
  }

  async start(address) {
    const first = await this.addPane(address.name, address.head);
    if (!first) return;
    this.heading.textContent = first.report.slide;
    document.title = `${first.report.slide} – ${t("title")}`;
    this.goTo(address);
    if (address.with) await this.compare(address.with, address.with_head);
    if (document.activeElement === document.body) first.focus();
  }

  async addPane(name, head) {
    const pane = new Pane(this, this.stages, this.news, this.settings);
    this.panes.push(pane);
    pane.onMove(() => this.moved(pane));
    try {
      await pane.load(name, head);
    } catch (error) {
      if (pane.closed) return null;
      pane.notice(error.status === 404 ? t("no_result", { name }) : error.status === 409
        ? whyNot(JSON.parse(error.message)) : error.message, "danger");
      return null;
    }
    if (pane.closed) return null;
    pane.setTissue(this.settings.tissue);
    pane.setFlaws(this.settings.flaws);
    this.activate(pane);
    return pane;
  }

  /** The pane that keys, side panel and gallery are about. */
  activate(pane) {
    if (this.active === pane) return;
    this.active = pane;
    for (const one of this.panes) one.element.classList.toggle("active", one === pane);
    this.drawAround();
  }

  drawAround() {
    const pane = this.active;
    if (!pane?.report) return;
    this.flown = -1;
    this.panel.show(pane);
    this.gallery.show(pane, (place, number, count) => this.fly(place, number, count));
    for (const one of this.panes) fillPaneTitle(one, this);
  }

  setHead(pane, head) {
    this.active = pane;
    for (const one of this.panes) one.element.classList.toggle("active", one === pane);
    if (pane.overlay) pane.overlay.focus = null;
    pane.setHead(head);
    this.drawAround();
    this.keepAddress();
    say(pane.caption());
  }

  nextHead(step) {
    const heads = this.active.predictions.map((one) => one.head);
    const at = heads.indexOf(this.active.head);
    this.setHead(this.active, heads[(at + step + heads.length) % heads.length]);
  }

  /** Show the active pane's attention for the class `about`. */
  setClass(about) {
    this.active.setClass(about);
    this.drawAround();
    this.keepAddress();
    say(this.active.legendText());
  }

  nextClass() {
    const { active } = this;
    const classes = active.classes();
    if (classes.length === 0) return;
    const at = active.about === null ? 0 : classes.indexOf(active.about);
    this.setClass(classes[(at + 1) % classes.length]);
  }

  setValue(value) {
    this.settings.value = value;
    for (const pane of this.panes) pane.drawHead();
    this.panel.drawControls();
    this.keepAddress();
  }

  toggleValue() {
    this.setValue(this.settings.value === "percentile" ? "weight" : "percentile");
    say(this.active.legendText());
  }

  setOpacity(value) {
    this.settings.opacity = Math.min(1, Math.max(0, value));
    for (const pane of this.panes) pane.applySettings();
    this.keepAddress();
  }

  changeOpacity(by) {
    this.setOpacity(this.settings.opacity + by);
    this.panel.drawControls();
    say(t("opacity_is", { value: Math.round(100 * this.settings.opacity) }));
  }

  /** Switch "outlines", "tissue", "flaws" or "linked". */
  toggle(what, on = !this.settings[what]) {
    this.settings[what] = on;
    for (const pane of this.panes) {
      pane.applySettings();
      if (what === "tissue") pane.setTissue(on);
      if (what === "flaws") pane.setFlaws(on);
    }
    if (what === "linked") this.link();
    this.panel.drawControls();
    say(`${t(what)}: ${t(on ? "common.yes" : "common.no")}`);
  }

  fly(place, number, count) {
    this.active.fly(place);
    // On small screens the tiles are below the slide.
    this.active.stage.scrollIntoView({ block: "nearest" });
    this.gallery.mark(place);
    say(t("flown", { place: number, count }));
  }

  flyNext(step) {
    const tiles = this.gallery.top;
    if (tiles.length === 0 || !this.active.overlay) return;
    this.flown = (this.flown < 0 && step < 0 ? tiles.length - 1
      : this.flown + step + tiles.length) % tiles.length;
    this.fly(tiles[this.flown], this.flown + 1, tiles.length);
  }

  toggleCompare() {
    if (this.panes.length > 1) {
      this.links?.close();
      this.links = null;
      this.panes.pop().close();
      this.finishCompare();
      this.activate(this.panes[0]);
      this.drawAround();
      this.panes[0].focus();
      return;
    }
    const heads = this.panes[0].predictions.map((one) => one.head);
    const other = heads[(heads.indexOf(this.panes[0].head) + 1) % heads.length];
    this.compare(this.panes[0].name, other);
  }

  async compare(name, head) {
    const [first] = this.panes;
    const place = first.place();
    this.others ??= (await getJson("/api/results")).filter((one) => one.state === "ready" && !one.is_case);
    this.links?.close();
    this.links = null;
    if (this.panes.length > 1) this.panes.pop().close();
    this.stages.classList.add("two");
    const second = await this.addPane(name, head);
    if (second && second.name === first.name && place) {
      first.moveTo(place);
      second.moveTo(place);
    }
    this.finishCompare();
  }

  finishCompare() {
    const two = this.panes.length > 1;
    this.stages.classList.toggle("two", two);
    this.compareButton.setAttribute("aria-pressed", String(two));
    this.panel.drawControls();
    for (const one of this.panes) fillPaneTitle(one, this);
    this.link();
    this.keepAddress();
  }

  link() {
    this.links?.close();
    this.links = this.panes.length > 1 && this.settings.linked ? new LinkedViews(...this.panes) : null;
  }

  moved(pane) {
    if (pane === this.active) this.follow();
    this.keepAddress();
  }

  /** Bring the other pane to where the active one is, if they are linked. */
  follow() {
    this.links?.follow(this.active);
  }

  keepAddress() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const [first, second] = this.panes;
      if (!first?.report) return;
      const place = first.place();
      history.replaceState(null, "", addressHash({ name: first.name, head: first.head,
        class: first.about, value: this.settings.value, opacity: Math.round(100 * this.settings.opacity),
        x: place?.px[0], y: place?.px[1],
        scale: first.pxPerPx(),
        rotation: place?.rotation || null,
        with: second?.name, with_head: second?.head }));
    }, ADDRESS_EVERY_MS);
  }

  /** Show the head and place of an address of this slide. */
  goTo(address) {
    const [first] = this.panes;
    if (!first?.report) return;
    if (address.head && address.head !== first.head
      && first.predictions.some((one) => one.head === address.head)) {
      this.setHead(first, address.head);
    }
    if (address.class !== first.about && (address.class || first.about)) {
      first.setClass(address.class);
      this.drawAround();
    }
    if (first.slide && address.x !== null && address.y !== null && address.scale > 0) {
      this.active = first;
      const mpp = first.mpp() ?? 1;
      first.moveTo({ px: [address.x, address.y], umPerPx: address.scale * mpp,
        rotation: address.rotation ?? 0 });
    }
  }

  async exportView() {
    const pane = this.active;
    if (!pane?.viewer) return;
    save(await viewAsPng(pane), `${pane.name}_${pane.head}.png`.replace(/[^\w.-]/g, "_"));
    say(t("exported"));
  }

  help() {
    helpDialog();
  }

  resultsChanged({ changed, gone }) {
    for (const pane of this.panes) {
      if (gone.includes(pane.name)) pane.notice(t("result_gone"), "warning");
      if (changed.some((one) => one.name === pane.name && one.state === "ready"
        && one.stamp !== pane.stamp)) {
        pane.notice(t("result_changed"), "warning", el("button", { type: "button",
          onclick: () => location.reload() }, t("reload")));
      }
    }
  }

  close() {
    this.stop();
    clearTimeout(this.timer);
    this.links?.close();
    for (const pane of this.panes) pane.close();
  }
}
