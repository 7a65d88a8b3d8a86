/** The brush: paints the mask of one instance in one frame, and shows painted masks. */
import { find } from './edits.js'
import { inClip } from './hits.js'
import { bitmapOf, boundsOf, maskOf, resizedBitmap, stroke } from './painted.js'

/** @typedef {import('./editor.js').Editor} Editor */
/** @typedef {import('./painted.js').Mask} Mask */
/** @typedef {import('../pointer.js').Spot} Spot */

/** Painted masks by their text's own value, which is never changed. @type {WeakMap<Mask, {box: import('./values.js').Corners, canvas: HTMLCanvasElement, ink: string}>} */
const shown = new WeakMap()

/**
 * A press of the brush and what follows it.
 * @param {Editor} editor
 * @param {() => import('./hits.js').View} view
 * @param {Spot} from
 * @returns {import('../pointer.js').Drag | null}
 */
export function brushDrag(editor, view, from) {
  const away = from.event.altKey || editor.minus
  const own = editor.wanted ? undefined : editor.track(editor.selected)
  const head = own ?? (away ? null : editor.fresh())
  if (!head) return null
  const { frame, clip } = editor
  const before = own && editor.seen(own).mask
  if (away && !before) {
    editor.say('Nothing is painted here that could be taken away.')
    return null
  }
  const size = { width: clip.width, height: clip.height }
  const bitmap = before
    ? resizedBitmap(bitmapOf(before), size)
    : { ...size, pixels: new Uint8Array(size.width * size.height) }
  let last = inClip(view(), from)
  const paint = (/** @type {Spot} */ spot) => {
    const next = inClip(view(), spot)
    stroke(bitmap, last, next, editor.radius, away ? 0 : 1)
    last = next
    editor.try(editor.painted(head, frame, maskOf(bitmap)))
  }
  return {
    move: paint,
    end: (spot, moved) => {
      if (!moved) paint(from)
      else paint(spot)
      editor.settle()
      if (find(editor.doc, head.name)) editor.selected = head.name
      editor.wanted = ''
      editor.show()
      editor.changed()
    },
    cancel: () => editor.drop()
  }
}

/**
 * The box around a painted mask, in pixels of the clip.
 * @param {Mask} mask
 * @param {import('./values.js').Size} clip
 * @param {string} ink
 * @returns {import('./values.js').Corners}
 */
export function maskBox(mask, clip, ink) {
  const [x0, y0, x1, y1] = pictureOf(mask, ink).box
  const [sx, sy] = [clip.width / mask.width, clip.height / mask.height]
  return [x0 * sx, y0 * sy, x1 * sx, y1 * sy]
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Mask} mask
 * @param {string} ink
 * @param {import('./values.js').Corners} on where the whole picture is on the stage
 */
export function drawMask(context, mask, ink, [x0, y0, x1, y1]) {
  context.save()
  context.globalAlpha *= 0.5
  context.drawImage(pictureOf(mask, ink).canvas, x0, y0, x1 - x0, y1 - y0)
  context.restore()
}

/**
 * The circle that the brush covers.
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, y: number}} at on the stage
 * @param {number} radius on the stage
 * @param {boolean} away
 */
export function drawBrush(context, { x, y }, radius, away) {
  for (const [width, ink] of /** @type {[number, string][]} */ ([
    [3, 'rgb(0 0 0 / 0.6)'],
    [1.5, 'white']
  ])) {
    context.setLineDash(away ? [4, 3] : [])
    context.lineWidth = width
    context.strokeStyle = ink
    context.beginPath()
    context.arc(x, y, Math.max(1, radius), 0, 2 * Math.PI)
    context.stroke()
  }
  context.setLineDash([])
}

/**
 * @param {Mask} mask
 * @param {string} ink
 */
function pictureOf(mask, ink) {
  const kept = shown.get(mask)
  if (kept?.ink === ink) return kept
  const bitmap = bitmapOf(mask)
  const canvas = document.createElement('canvas')
  canvas.width = mask.width
  canvas.height = mask.height
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'))
  const image = context.createImageData(mask.width, mask.height)
  bitmap.pixels.forEach((value, i) => {
    image.data[4 * i + 3] = value * 255
  })
  context.putImageData(image, 0, 0)
  context.globalCompositeOperation = 'source-in'
  context.fillStyle = ink
  context.fillRect(0, 0, mask.width, mask.height)
  const made = { box: boundsOf(bitmap), canvas, ink }
  shown.set(mask, made)
  return made
}
