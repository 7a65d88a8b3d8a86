/** A rough preview: every instance is cut out of the picture where it is first, and moves along its path. */
import { boxAt } from './motion.js'

/** @typedef {import('./editor.js').Editor} Editor */
/** @typedef {import('./values.js').Corners} Corners */

const LARGEST = 768 // pixels of the plate's longer side

export class Animation {
  /**
   * @param {Editor} editor
   * @param {import('./stage.js').DrawPicture} picture
   */
  constructor(editor, picture) {
    this.editor = editor
    this.picture = picture
    /** @type {{key: unknown, whole: HTMLCanvasElement, plate: HTMLCanvasElement, scale: number} | null} */
    this.made = null
  }

  /** Forgets the cut-outs: another picture has come. */
  forget() {
    this.made = null
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {import('./hits.js').View} view
   * @returns {boolean} false where there is no picture to cut
   */
  draw(context, { scale, left, top }) {
    const { editor } = this
    const made = this.cut()
    if (!made) return false
    const { width, height, hold } = editor.clip
    context.save()
    context.beginPath()
    context.rect(left, top, width * scale, height * scale)
    context.clip()
    context.drawImage(made.plate, left, top, width * scale, height * scale)
    for (const { keys } of editor.scene.tracks) {
      const [from, to] = [first(keys), boxAt(keys, editor.frame, hold)]
      if (!from || !to) continue
      const [x, y, w, h] = inside(from, width, height)
      if (w <= 0 || h <= 0) continue
      // The part of the first box that lies in the picture stays the same part of the box later.
      const [sx, sy] = [(to[2] - to[0]) / (from[2] - from[0]), (to[3] - to[1]) / (from[3] - from[1])]
      const at = [left + (to[0] + (x - from[0]) * sx) * scale, top + (to[1] + (y - from[1]) * sy) * scale]
      const s = made.scale
      context.drawImage(made.whole, x * s, y * s, w * s, h * s, at[0], at[1], w * sx * scale, h * sy * scale)
    }
    context.restore()
    return true
  }

  /** The picture, and the same with holes filled from around. */
  cut() {
    const { editor } = this
    const key = editor.scene
    if (this.made?.key === key) return this.made
    const { width, height } = editor.clip
    const scale = Math.min(1, LARGEST / Math.max(width, height))
    const whole = canvas(width * scale, height * scale)
    const ink = /** @type {CanvasRenderingContext2D} */ (whole.getContext('2d'))
    if (!this.picture(ink, 0, 0, 0, whole.width, whole.height)) return null
    const plate = canvas(whole.width, whole.height)
    const under = /** @type {CanvasRenderingContext2D} */ (plate.getContext('2d'))
    under.drawImage(whole, 0, 0)
    for (const { keys } of editor.scene.tracks) {
      const box = first(keys)
      if (box)
        fill(
          under,
          plate,
          inside(box, width, height).map((v) => Math.round(v * scale))
        )
    }
    this.made = { key, whole, plate, scale }
    return this.made
  }
}

/** @param {import('./motion.js').BoxKey[]} keys */
const first = (keys) => keys.find(({ box }) => box)?.box ?? null

/**
 * @param {Corners} box
 * @param {number} width
 * @param {number} height
 * @returns {[number, number, number, number]} x, y, width, height
 */
function inside([x0, y0, x1, y1], width, height) {
  const [x, y] = [Math.max(0, x0), Math.max(0, y0)]
  return [x, y, Math.min(width, x1) - x, Math.min(height, y1) - y]
}

/**
 * Draws the columns beside a hole over it, from both sides with a soft seam.
 * @param {CanvasRenderingContext2D} context
 * @param {HTMLCanvasElement} plate
 * @param {number[]} hole x, y, width, height
 */
function fill(context, plate, [x, y, width, height]) {
  if (width < 1 || height < 1) return
  const [before, behind] = [x - 2, x + width + 1]
  const sides = [before >= 0 ? before : null, behind < plate.width ? behind : null].filter((side) => side !== null)
  if (!sides.length) return
  context.drawImage(plate, sides[0], y, 1, height, x, y, width, height)
  if (sides.length < 2) return
  const over = canvas(width, height)
  const ink = /** @type {CanvasRenderingContext2D} */ (over.getContext('2d'))
  ink.drawImage(plate, sides[1], y, 1, height, 0, 0, width, height)
  const fade = ink.createLinearGradient(0, 0, width, 0)
  fade.addColorStop(0, 'rgb(0 0 0 / 0)')
  fade.addColorStop(1, 'rgb(0 0 0 / 1)')
  ink.globalCompositeOperation = 'destination-in'
  ink.fillStyle = fade
  ink.fillRect(0, 0, width, height)
  context.drawImage(over, x, y)
}

/**
 * @param {number} width
 * @param {number} height
 */
function canvas(width, height) {
  const made = document.createElement('canvas')
  made.width = Math.max(1, Math.round(width))
  made.height = Math.max(1, Math.round(height))
  return made
}
