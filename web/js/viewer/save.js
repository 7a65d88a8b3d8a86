/**
 * Pictures and videos of what is on the stage, with their legend.
 */
import { barColours } from './picture.js'
import { paint } from './stage.js'
import { encodes, webmOf } from './webm.js'

/** @typedef {import('./picture.js').Scene} Scene */

const STRIP = 74
const WIDEST = 1280

/**
 * Draws scenes side by side with their captions and legends below.
 * @param {HTMLCanvasElement} canvas is given its size
 * @param {{scene: Scene, caption: string}[]} panes
 */
export function compose(canvas, panes) {
  const [wide, tall] = panes[0].scene.picture.size
  const scale = Math.max(1, Math.min(WIDEST / panes.length / wide, Math.max(1, 720 / wide)))
  const [width, height] = [Math.round(wide * scale), Math.round(tall * scale)]
  canvas.width = even(width * panes.length + 4 * (panes.length - 1))
  canvas.height = even(height + STRIP)
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'))
  pen.fillStyle = '#111318'
  pen.fillRect(0, 0, canvas.width, canvas.height)
  const part = document.createElement('canvas')
  part.width = width
  part.height = height
  const ink = /** @type {CanvasRenderingContext2D} */ (part.getContext('2d'))
  for (const [i, { scene, caption }] of panes.entries()) {
    paint(ink, width, height, scene.picture)
    const left = i * (width + 4)
    pen.drawImage(part, left, 0)
    legend(pen, left + 10, height, width - 20, scene, caption)
  }
}

/** @param {number} size an encoder of video wants even ones */
const even = (size) => size + (size % 2)

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {number} left
 * @param {number} top
 * @param {number} width
 * @param {Scene} scene
 * @param {string} caption
 */
function legend(pen, left, top, width, scene, caption) {
  pen.textBaseline = 'middle'
  pen.font = '13px system-ui, sans-serif'
  pen.fillStyle = '#8b92a1'
  pen.fillText(caption, left, top + 16, width)
  const rows = scene.rows.slice(0, 6)
  const columns = Math.min(rows.length, width > 480 ? 3 : 2)
  for (const [i, row] of rows.entries()) {
    const each = width / columns
    const [x, y] = [left + (i % columns) * each, top + 38 + Math.floor(i / columns) * 20]
    pen.fillStyle = `rgb(${row.colour.join(', ')})`
    pen.fillRect(x, y - 5, 10, 10)
    pen.fillStyle = '#f0f2f7'
    pen.fillText(row.name, x + 16, y, each * 0.36)
    const bar = { x: x + 20 + each * 0.38, width: each * 0.22 }
    const colours = barColours(row.colours, Math.max(2, Math.round(bar.width)))
    for (const [k, colour] of colours.entries()) {
      pen.fillStyle = colour
      pen.fillRect(bar.x + k, y - 4, 1.5, 8)
    }
    pen.fillStyle = '#8b92a1'
    pen.fillText(`${row.low} - ${row.high}`, bar.x + bar.width + 6, y, each * 0.3)
  }
}

/**
 * @param {HTMLCanvasElement} canvas
 * @returns {Promise<Blob>}
 */
export function pngOf(canvas) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error('this browser gives no picture'))), 'image/png')
  })
}

/**
 * A video of pictures that are drawn one by one: encoded where the browser can, else recorded while it plays.
 * @param {number} count
 * @param {number} fps
 * @param {(canvas: HTMLCanvasElement, picture: number) => Promise<void>} draw
 * @returns {Promise<Blob>}
 */
export async function videoOf(count, fps, draw) {
  const canvas = document.createElement('canvas')
  await draw(canvas, 0)
  if (await encodes(canvas)) return webmOf(canvas, count, fps, (picture) => draw(canvas, picture))
  // Pictures are handed over one by one: left to itself the browser drops some where the machine is busy.
  const stream = canvas.captureStream(0)
  const [track] = /** @type {CanvasCaptureMediaStreamTrack[]} */ (stream.getVideoTracks())
  const recorder = new MediaRecorder(stream, { mimeType: 'video/webm', videoBitsPerSecond: 8e6 })
  /** @type {Blob[]} */
  const parts = []
  recorder.addEventListener('dataavailable', (event) => parts.push(event.data))
  const ended = new Promise((resolve) => recorder.addEventListener('stop', resolve))
  const started = new Promise((resolve) => recorder.addEventListener('start', resolve))
  recorder.start()
  await started
  for (let picture = 0; picture < count; picture++) {
    await draw(canvas, picture)
    track.requestFrame()
    await new Promise((resolve) => setTimeout(resolve, 1000 / fps))
  }
  recorder.stop()
  await ended
  return new Blob(parts, { type: 'video/webm' })
}
