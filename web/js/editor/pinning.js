/** Points that are pinned by a click on the picture, shown as rings: see `pins.js`. */
import { INK } from '../colours.js'
import { inClip } from './hits.js'
import { cropOf } from './stage.js'

/** @typedef {import('./pins.js').Pins} Pins */
/** @typedef {import('./points.js').Point} Point */
/** @typedef {import('./hits.js').View} View */

const REACH = 9 // pixels of the stage, from the middle of a ring
const FAINT = 0.35 // of rings in other frames

export class Pinning {
  /**
   * @param {import('./editor.js').Editor} editor
   * @param {() => Pins | null} find
   * @param {() => import('./stage.js').Grid | null} grid
   */
  constructor(editor, find, grid) {
    this.editor = editor
    this.find = find
    this.grid = grid
    this.on = false
    /** @type {Pins | null} */
    this.pins = null
    /** @type {Point[]} */
    this.points = []
  }

  /** Looks again at the graph. */
  refresh() {
    const before = JSON.stringify([this.points, this.pins === null])
    this.pins = this.find()
    this.points = this.pins?.read() ?? []
    this.on &&= this.pins !== null
    if (JSON.stringify([this.points, this.pins === null]) !== before) this.editor.changed()
  }

  toggle() {
    this.refresh()
    if (this.pins) this.on = !this.on
    else
      this.editor.say('No node records what comes of this: add MATRIX Sample and Capture Attention to follow points.')
    this.editor.changed()
  }

  /** The model's frame in pixels of the picture, and its own pixels; without a grid they are taken for the same. */
  framed() {
    const [grid, { clip }] = [this.grid(), this.editor]
    return grid
      ? { corners: cropOf(clip, grid), frame: grid.frame, known: true }
      : { corners: [0, 0, clip.width, clip.height], frame: [clip.width, clip.height], known: false }
  }

  /**
   * Where a point is in the picture.
   * @param {Point} point
   */
  placed({ x, y, percent }) {
    const { corners, frame } = this.framed()
    const [across, down] = [x, y].map((value, i) => {
      const share = value / (percent[i] ? 100 : frame[i])
      return corners[i] + share * (corners[i + 2] - corners[i])
    })
    return { x: across, y: down }
  }

  /**
   * Pins a place of this frame, or takes away the point that is there.
   * @param {View} view
   * @param {{x: number, y: number}} spot on the stage
   */
  click(view, spot) {
    const { editor, pins } = this
    if (!pins) return
    const here = this.points.find((point) => {
      const { x, y } = this.placed(point)
      const far = Math.hypot(view.left + x * view.scale - spot.x, view.top + y * view.scale - spot.y)
      return point.frame === editor.frame && far <= REACH
    })
    const made = here ?? this.pointAt(...inClip(view, spot))
    if (!made) return editor.say('The model does not see this place: pin one inside of its frame.')
    try {
      editor.say(here ? pins.remove(here) : pins.add(made))
    } catch (error) {
      editor.say(`Its points cannot be read, and are left as they are: ${/** @type {Error} */ (error).message}`)
    }
    this.refresh()
  }

  /**
   * In pixels of the model's frame; in percent where its size is not known yet.
   * @param {number} x pixels of the picture
   * @param {number} y
   * @returns {Point | null} null outside
   */
  pointAt(x, y) {
    const { corners, frame, known } = this.framed()
    const shares = [x, y].map((value, i) => (value - corners[i]) / (corners[i + 2] - corners[i]))
    if (shares.some((share) => share < 0 || share > 1)) return null
    const [across, down] = shares.map((share, i) =>
      known ? Math.round(share * frame[i]) : Math.round(share * 1000) / 10
    )
    return { x: across, y: down, frame: this.editor.frame, percent: [!known, !known] }
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {View} view
   */
  draw(context, view) {
    for (const point of this.points) {
      const { x, y } = this.placed(point)
      const [left, top] = [view.left + x * view.scale, view.top + y * view.scale]
      const now = point.frame === this.editor.frame
      context.globalAlpha = now ? 1 : FAINT
      for (const [style, width] of /** @type {[string, number][]} */ ([
        ['rgb(10 12 16 / 0.8)', 5],
        [INK.accent, 2.5]
      ])) {
        context.strokeStyle = style
        context.lineWidth = width
        context.beginPath()
        context.arc(left, top, 6, 0, 2 * Math.PI)
        context.stroke()
      }
      if (!now) {
        context.font = '10px Inter, ui-sans-serif, sans-serif'
        context.fillStyle = INK.accent
        context.fillText(String(point.frame), left + 9, top + 4)
      }
    }
    context.globalAlpha = 1
  }
}
