/** Two panes that move together: same scale in micrometres, same turn, places a fixed way apart. */

export class LinkedViews {
  /** How far apart the two places are now is kept. The pane that somebody moves leads. */
  constructor(one, other) {
    this.panes = [one, other];
    const [a, b] = this.panes.map((pane) => pane.place());
    this.apart = a && b ? [b.um[0] - a.um[0], b.um[1] - a.um[1]] : null;
  }

  /** Bring the other pane to where `leader` is. */
  follow(leader) {
    const place = leader.place();
    if (this.apart === null || !place) return;
    const first = leader === this.panes[0];
    this.panes[first ? 1 : 0].moveTo({
      um: place.um.map((value, axis) => value + (first ? 1 : -1) * this.apart[axis]),
      umPerPx: place.umPerPx,
      rotation: place.rotation,
    });
  }

  close() {
    this.apart = null;
  }
}
