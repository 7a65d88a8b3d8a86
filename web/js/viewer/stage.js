/**
 * The picture: a frame of the clip, heat over it, outlines of masks, points, and the place that was clicked.
 */
import { blend, heatSize, resized } from './heat.js'
import { css, fitCanvas, make } from './parts.js'

/** @typedef {import('./heat.js').Ramp} Ramp */

/**
 * What is on the picture. `size` is the clip's (width, height), `box` the part of a frame that the tokens cover, as shares
 * of its size (left, top, right, bottom); `heats` are values from 0 to 1 on the tokens (rows, columns).
 * `ways` are where points came from, as shares of the box, the last place last.
 * @typedef {{bitmap: ImageBitmap | null, size: [number, number], box: [number, number, number, number],
 *   rows: number, columns: number, heats: {values: Float32Array, colours: Ramp}[], smooth: boolean, strength: number,
 *   masks: {colour: readonly number[], tokens: Uint8Array, dashed?: boolean}[],
 *   marks: {colour: readonly number[], row: number, column: number, pinned: boolean}[],
 *   ways?: {colour: readonly number[], places: [number, number][], found: boolean}[]}} Picture
 */

/**
 * Where a picture of one shape lies in a place of another: as large as it can be, in the middle.
 * @param {number} width of the place
 * @param {number} height
 * @param {[number, number]} size of the picture
 * @returns {{left: number, top: number, width: number, height: number}}
 */
export function fitted(width, height, [wide, tall]) {
  const scale = Math.min(width / wide, height / tall)
  const [w, h] = [Math.max(1, Math.round(wide * scale)), Math.max(1, Math.round(tall * scale))]
  return { left: Math.round((width - w) / 2), top: Math.round((height - h) / 2), width: w, height: h }
}

/**
 * The token at a point of the picture.
 * @param {Pick<Picture, 'box' | 'rows' | 'columns'>} picture
 * @param {number} x share of the width, 0 to 1
 * @param {number} y share of the height
 * @returns {{row: number, column: number} | null} null where the model saw nothing
 */
export function tokenAt({ box: [left, top, right, bottom], rows, columns }, x, y) {
  const column = Math.floor(((x - left) / (right - left)) * columns)
  const row = Math.floor(((y - top) / (bottom - top)) * rows)
  return row >= 0 && row < rows && column >= 0 && column < columns ? { row, column } : null
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {number} width pixels of the canvas
 * @param {number} height
 * @param {Picture} picture
 */
export function paint(pen, width, height, picture) {
  const [left, top, right, bottom] = picture.box
  const box = { x: left * width, y: top * height, w: (right - left) * width, h: (bottom - top) * height }
  pen.setTransform(1, 0, 0, 1, 0, 0)
  pen.globalCompositeOperation = 'source-over'
  pen.globalAlpha = 1
  pen.fillStyle = '#000'
  pen.fillRect(0, 0, width, height)
  pen.imageSmoothingEnabled = true
  pen.imageSmoothingQuality = 'high'
  if (picture.bitmap) {
    pen.drawImage(picture.bitmap, 0, 0, width, height)
    if (picture.heats.length) calm(pen, width, height, box, Math.min(1, picture.strength * 1.2))
  }
  if (picture.heats.length) {
    pen.imageSmoothingEnabled = picture.smooth
    pen.drawImage(heatCanvas(picture), box.x, box.y, box.w, box.h)
  }
  for (const mask of picture.masks) outline(pen, box, picture, mask)
  for (const mark of picture.marks) point(pen, box, picture, mark)
  for (const each of picture.ways ?? []) way(pen, box, each)
}

/**
 * A frame loses colour and light, so that heat is the brightest thing; what the model never saw is darker still.
 * @param {CanvasRenderingContext2D} pen
 * @param {number} width
 * @param {number} height
 * @param {{x: number, y: number, w: number, h: number}} box
 * @param {number} strength
 */
function calm(pen, width, height, box, strength) {
  pen.globalCompositeOperation = 'saturation'
  pen.fillStyle = `rgba(128, 128, 128, ${0.5 * strength})`
  pen.fillRect(0, 0, width, height)
  pen.globalCompositeOperation = 'source-over'
  pen.fillStyle = `rgba(0, 0, 0, ${0.2 * strength})`
  pen.fillRect(0, 0, width, height)
  pen.save()
  pen.beginPath()
  pen.rect(0, 0, width, height)
  pen.rect(box.x, box.y, box.w, box.h)
  pen.fillStyle = `rgba(0, 0, 0, ${0.55 * strength})`
  pen.fill('evenodd')
  pen.restore()
}

/** @type {HTMLCanvasElement | null} */
let scratch = null

/** @param {Picture} picture */
function heatCanvas({ heats, rows, columns, smooth }) {
  const [width, height] = heatSize(columns, rows, smooth)
  scratch ??= document.createElement('canvas')
  scratch.width = width
  scratch.height = height
  const pen = /** @type {CanvasRenderingContext2D} */ (scratch.getContext('2d', { willReadFrequently: true }))
  const image = pen.createImageData(width, height)
  blend(
    image.data,
    heats.map(({ values, colours }) => ({ values: resized(values, columns, rows, width, height), colours }))
  )
  pen.putImageData(image, 0, 0)
  return scratch
}

/**
 * The edge of a mask's tokens; of one that was read off the maps in dashes.
 * @param {CanvasRenderingContext2D} pen
 * @param {{x: number, y: number, w: number, h: number}} box
 * @param {Picture} picture
 * @param {Picture['masks'][number]} mask
 */
function outline(pen, box, { rows, columns }, { colour, tokens, dashed }) {
  const [wide, tall] = [box.w / columns, box.h / rows]
  /** @type {(row: number, column: number) => boolean} */
  const held = (row, column) =>
    row >= 0 && row < rows && column >= 0 && column < columns && tokens[row * columns + column] === 1
  pen.beginPath()
  for (let row = 0; row <= rows; row++) {
    for (let column = 0; column <= columns; column++) {
      const [x, y] = [box.x + column * wide, box.y + row * tall]
      const own = held(row, column)
      if (own !== held(row - 1, column)) {
        pen.moveTo(x, y)
        pen.lineTo(x + wide, y)
      }
      if (own !== held(row, column - 1)) {
        pen.moveTo(x, y)
        pen.lineTo(x, y + tall)
      }
    }
  }
  const thick = Math.max(1.5, pen.canvas.width / 480)
  pen.lineCap = 'square'
  pen.strokeStyle = 'rgba(10, 12, 16, 0.6)'
  pen.lineWidth = 2.4 * thick
  pen.stroke()
  pen.strokeStyle = css(colour)
  pen.lineWidth = thick
  pen.setLineDash(dashed ? [2.5 * thick, 3 * thick] : [])
  pen.stroke()
  pen.setLineDash([])
}

/**
 * A followed point: the way that it came, and a dot where it is; a ring where it was not found.
 * @param {CanvasRenderingContext2D} pen
 * @param {{x: number, y: number, w: number, h: number}} box
 * @param {{colour: readonly number[], places: [number, number][], found: boolean}} way
 */
function way(pen, box, { colour, places, found }) {
  const at = places.map(([x, y]) => [box.x + x * box.w, box.y + y * box.h])
  const [x, y] = at[at.length - 1]
  const thick = Math.max(1.5, pen.canvas.width / 320)
  for (const [style, width] of /** @type {[string, number][]} */ ([
    ['rgba(10, 12, 16, 0.75)', 2 * thick],
    [css(colour), thick]
  ])) {
    pen.strokeStyle = pen.fillStyle = style
    pen.lineWidth = width
    pen.beginPath()
    for (const [right, down] of at) pen.lineTo(right, down)
    pen.stroke()
    pen.beginPath()
    pen.arc(x, y, 2 * thick + width, 0, 2 * Math.PI)
    if (found) pen.fill()
    else pen.stroke()
  }
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {{x: number, y: number, w: number, h: number}} box
 * @param {Picture} picture
 * @param {{colour: readonly number[], row: number, column: number, pinned: boolean}} mark
 */
function point(pen, box, { rows, columns }, { colour, row, column, pinned }) {
  const [x, y] = [box.x + ((column + 0.5) * box.w) / columns, box.y + ((row + 0.5) * box.h) / rows]
  const size = Math.max(7, pen.canvas.width / 90)
  pen.lineWidth = size / 4
  for (const [style, extra] of /** @type {[string, number][]} */ ([
    ['rgba(10, 12, 16, 0.75)', size / 4],
    [css(colour), 0]
  ])) {
    pen.strokeStyle = style
    pen.lineWidth = size / 4 + extra
    pen.beginPath()
    if (pinned) {
      pen.arc(x, y, size, 0, 2 * Math.PI)
    } else {
      pen.moveTo(x - size, y)
      pen.lineTo(x + size, y)
      pen.moveTo(x, y - size)
      pen.lineTo(x, y + size)
    }
    pen.stroke()
  }
}

export class Stage {
  /** @param {(token: {row: number, column: number} | null, double: boolean, x: number) => void} clicked */
  constructor(clicked) {
    this.canvas = make('canvas', { role: 'img', label: 'Attention over the clip' })
    this.told = make('div', { class: 'told' })
    this.element = make('div', { class: 'stage' }, [this.canvas, this.told])
    /** @type {Picture | null} */
    this.picture = null
    /** @param {MouseEvent} event */
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect()
      const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
      return { token: this.picture ? tokenAt(this.picture, x, y) : null, x }
    }
    this.canvas.addEventListener('click', (event) => {
      const { token, x } = at(event)
      clicked(token, false, x)
    })
    this.canvas.addEventListener('dblclick', (event) => {
      const { token, x } = at(event)
      clicked(token, true, x)
    })
  }

  /** @param {Picture} picture */
  show(picture) {
    this.picture = picture
    this.draw()
  }

  draw() {
    const { clientWidth, clientHeight } = this.element
    const pen = this.canvas.getContext('2d')
    if (!this.picture || !pen || !clientWidth || !clientHeight) return
    const place = fitted(clientWidth, clientHeight, this.picture.size)
    fitCanvas(this.canvas, place.width, place.height)
    for (const [side, value] of Object.entries(place)) {
      const pixels = `${value}px`
      const style = /** @type {any} */ (this.canvas.style)
      if (style[side] !== pixels) style[side] = pixels
    }
    paint(pen, this.canvas.width, this.canvas.height, this.picture)
  }
}
