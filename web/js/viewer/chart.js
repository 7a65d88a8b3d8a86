/**
 * The chart of layers and steps, which is the picker: a click takes a cell, a drag a range; beside it the mean of each
 * layer, with chance.
 */
import { fitCanvas, make } from './parts.js'

/** @typedef {import('./exhibit.js').Chart} Chart */

/**
 * What it shows. `charts` are those of the chosen names that are here; `table` the colours.
 * @typedef {{layers: number[], steps: number[], sigmas: number[], chosen: {layers: number[], steps: number[]},
 *   charts: {name: string, colour: string, chart: Chart}[], table: Uint8Array}} Shown
 */

/**
 * Which places a drag covers; a drag along an axis leaves the other one alone.
 * @typedef {{layers: [number, number] | null, steps: [number, number] | null}} Drag
 */

const LEFT = 26
const BOTTOM = 18
const BARS = 44
const GAP = 8

/**
 * Where the cells lie, in CSS pixels.
 * @typedef {{left: number, top: number, width: number, height: number, cell: [number, number]}} Plot
 */

/**
 * @param {number} width
 * @param {number} height
 * @param {number} rows
 * @param {number} columns
 * @returns {Plot}
 */
export function plotOf(width, height, rows, columns) {
  const wide = Math.max(20, width - LEFT - BARS - GAP)
  const tall = Math.max(20, height - BOTTOM - 2)
  // Few cells stay small enough to be a chart, and lie at the top.
  const cell = /** @type {[number, number]} */ ([Math.min(wide / columns, 40), Math.min(tall / rows, 26)])
  return { left: LEFT, top: 2, width: cell[0] * columns, height: cell[1] * rows, cell }
}

/**
 * What lies at a point: a place among the layers and among the steps, null beside the cells on that side.
 * @param {Plot} plot
 * @param {number} x
 * @param {number} y
 * @param {number} rows
 * @param {number} columns
 * @returns {{layer: number | null, step: number | null}}
 */
export function cellAt(plot, x, y, rows, columns) {
  const column = Math.floor((x - plot.left) / plot.cell[0])
  const row = Math.floor((y - plot.top) / plot.cell[1])
  return {
    layer: y <= plot.top + plot.height ? Math.min(rows - 1, Math.max(0, row)) : null,
    step: x >= plot.left && x <= plot.left + plot.width ? Math.min(columns - 1, Math.max(0, column)) : null
  }
}

/**
 * Values from 0 to 1 for the colours: where chance is known 0 is chance and 1 all there is.
 * @param {Chart[]} charts
 * @param {number} place
 * @returns {number} NaN where nothing was recorded
 */
export function shownValue(charts, place) {
  let sum = 0
  let count = 0
  for (const { values, chance, aligned } of charts) {
    const value = values[place]
    if (Number.isNaN(value)) continue
    sum += aligned && chance !== null ? Math.max(0, (value - chance) / Math.max(1e-6, 1 - chance)) : value
    count++
  }
  return count ? sum / count : Number.NaN
}

/**
 * The mean over steps of each layer, weighed by calls, and chance, both as means over the charts.
 * @param {Chart[]} charts
 * @param {number} rows
 * @param {number} columns
 * @returns {{means: number[], chance: number | null}}
 */
export function layerMeans(charts, rows, columns) {
  const means = Array.from({ length: rows }, (_, row) => {
    let sum = 0
    let weight = 0
    for (const { values, weights } of charts) {
      for (let i = row * columns; i < (row + 1) * columns; i++) {
        if (Number.isNaN(values[i])) continue
        sum += values[i] * weights[i]
        weight += weights[i]
      }
    }
    return weight ? sum / weight : Number.NaN
  })
  const known = charts.flatMap(({ chance }) => (chance === null ? [] : [chance]))
  const whole = charts.length > 0 && known.length === charts.length
  return { means, chance: whole ? known.reduce((sum, one) => sum + one, 0) / known.length : null }
}

export class LayerChart {
  /** @param {(drag: Drag, more: boolean) => void} picked */
  constructor(picked) {
    this.canvas = make('canvas', { role: 'img', label: 'Layers by steps' })
    this.element = make('div', { class: 'chart' }, [this.canvas])
    this.told = make('div', { class: 'told' })
    this.picked = picked
    /** @type {Shown | null} */
    this.shown = null
    /** @type {{layer: number | null, step: number | null} | null} */
    this.from = null
    /** @type {{layer: number | null, step: number | null} | null} */
    this.over = null
    this.size = [0, 0]
    this.canvas.addEventListener('pointerdown', (event) => this.down(event))
    this.canvas.addEventListener('pointermove', (event) => this.move(event))
    this.canvas.addEventListener('pointerup', () => {
      this.from = null
    })
    this.canvas.addEventListener('pointerleave', () => {
      this.over = null
      this.tell()
    })
  }

  /** @param {Shown} shown */
  show(shown) {
    this.shown = shown
    this.draw()
    this.tell()
  }

  /** @param {PointerEvent} event */
  at(event) {
    const shown = /** @type {Shown} */ (this.shown)
    const box = this.canvas.getBoundingClientRect()
    const [width, height] = this.size
    const x = ((event.clientX - box.left) / box.width) * width
    const y = ((event.clientY - box.top) / box.height) * height
    const [rows, columns] = [shown.layers.length, shown.steps.length]
    return cellAt(plotOf(width, height, rows, columns), x, y, rows, columns)
  }

  /** @param {PointerEvent} event */
  down(event) {
    if (!this.shown || event.button !== 0) return
    this.canvas.setPointerCapture(event.pointerId)
    this.from = this.at(event)
    this.pick(this.from, event.shiftKey || event.ctrlKey || event.metaKey)
  }

  /** @param {PointerEvent} event */
  move(event) {
    if (!this.shown) return
    const before = this.over
    this.over = this.at(event)
    if (before?.layer === this.over.layer && before?.step === this.over.step) return
    this.tell()
    if (this.from) this.pick(this.over, false)
  }

  /**
   * @param {{layer: number | null, step: number | null}} to
   * @param {boolean} more
   */
  pick(to, more) {
    const from = this.from
    if (!from) return
    /** @type {(one: number | null, other: number | null) => [number, number] | null} */
    const span = (one, other) => (one === null || other === null ? null : [Math.min(one, other), Math.max(one, other)])
    const drag = { layers: span(from.layer, to.layer), steps: span(from.step, to.step) }
    if (drag.layers || drag.steps) this.picked(drag, more)
  }

  draw() {
    const shown = this.shown
    const [width, height] = [this.element.clientWidth, this.element.clientHeight]
    const pen = this.canvas.getContext('2d')
    if (!shown || !pen || !width || !height) return
    this.size = [width, height]
    const scale = fitCanvas(this.canvas, width, height)
    this.canvas.style.width = `${width}px`
    this.canvas.style.height = `${height}px`
    pen.setTransform(scale, 0, 0, scale, 0, 0)
    pen.clearRect(0, 0, width, height)
    const plot = plotOf(width, height, shown.layers.length, shown.steps.length)
    drawCells(pen, plot, shown)
    drawChosen(pen, plot, shown)
    drawAxes(pen, plot, shown, height)
    drawBars(pen, plot, shown)
  }

  /** The line that says what is under the pointer, or what the chart is. */
  tell() {
    const { shown, over } = this
    if (!shown) return
    if (!shown.charts.length) {
      this.told.textContent = 'measuring the layers ...'
      return
    }
    const aligned = shown.charts.every(({ chart }) => chart.aligned)
    if (!over || over.layer === null) {
      this.told.textContent = aligned
        ? 'Share on the mask, above chance. Click or drag to choose.'
        : 'How concentrated: 0 flat, 1 one token. Click or drag to choose.'
      return
    }
    const row = over.layer
    const { layers, steps, sigmas, charts } = shown
    const where = over.step === null ? '' : `, step ${steps[over.step]} (sigma ${sigmas[over.step].toPrecision(2)})`
    const values = charts.map(({ name, chart }) => {
      const means = layerMeans([chart], layers.length, steps.length).means
      const value = over.step === null ? means[row] : chart.values[row * steps.length + over.step]
      const chance = chart.chance === null ? '' : ` / ${chart.chance.toFixed(2)}`
      return `${name} ${Number.isNaN(value) ? 'not recorded' : value.toFixed(2) + chance}`
    })
    this.told.textContent = `layer ${layers[row]}${where}: ${values.join(' · ')}${aligned ? ' (share / chance)' : ''}`
  }
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {Plot} plot
 * @param {Shown} shown
 */
function drawCells(pen, plot, shown) {
  pen.fillStyle = '#1c1f26'
  pen.fillRect(plot.left, plot.top, plot.width, plot.height)
  const charts = shown.charts.map(({ chart }) => chart)
  if (!charts.length) return
  const [rows, columns] = [shown.layers.length, shown.steps.length]
  const values = Array.from({ length: rows * columns }, (_, i) => shownValue(charts, i))
  const top = Math.max(1e-6, ...values.filter((value) => !Number.isNaN(value)))
  const gap = Math.min(...plot.cell) > 7 ? 1 : 0
  for (const [i, value] of values.entries()) {
    if (Number.isNaN(value)) continue
    const level = 3 * Math.round(255 * Math.min(1, value / top))
    pen.fillStyle = `rgb(${shown.table[level]}, ${shown.table[level + 1]}, ${shown.table[level + 2]})`
    const [x, y] = [plot.left + (i % columns) * plot.cell[0], plot.top + Math.floor(i / columns) * plot.cell[1]]
    pen.fillRect(x, y, plot.cell[0] - gap + (gap ? 0 : 0.4), plot.cell[1] - gap + (gap ? 0 : 0.4))
  }
}

/**
 * What is chosen is bright and framed; the rest steps back.
 * @param {CanvasRenderingContext2D} pen
 * @param {Plot} plot
 * @param {Shown} shown
 */
function drawChosen(pen, plot, { layers, steps, chosen }) {
  if (chosen.layers.length === layers.length && chosen.steps.length === steps.length) return
  const rows = runsOfPlaces(chosen.layers.map((layer) => layers.indexOf(layer)))
  const columns = runsOfPlaces(chosen.steps.map((step) => steps.indexOf(step)))
  const boxes = rows.flatMap(([top, bottom]) =>
    columns.map(([left, right]) => [
      plot.left + left * plot.cell[0],
      plot.top + top * plot.cell[1],
      (right - left + 1) * plot.cell[0],
      (bottom - top + 1) * plot.cell[1]
    ])
  )
  pen.save()
  pen.beginPath()
  pen.rect(plot.left, plot.top, plot.width, plot.height)
  for (const [x, y, width, height] of boxes) pen.rect(x, y, width, height)
  pen.fillStyle = 'rgba(17, 19, 24, 0.5)'
  pen.fill('evenodd')
  pen.lineWidth = 1.5
  pen.strokeStyle = '#f0f2f7'
  for (const [x, y, width, height] of boxes) pen.strokeRect(x - 0.75, y - 0.75, width + 1.5, height + 1.5)
  pen.restore()
}

/**
 * @param {number[]} places ascending
 * @returns {[number, number][]} first and last of each run of neighbours
 */
function runsOfPlaces(places) {
  /** @type {[number, number][]} */
  const runs = []
  for (const place of places) {
    const last = runs[runs.length - 1]
    if (last && last[1] + 1 === place) last[1] = place
    else runs.push([place, place])
  }
  return runs
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {Plot} plot
 * @param {Shown} shown
 * @param {number} height
 */
function drawAxes(pen, plot, shown, height) {
  pen.font = '10px system-ui, sans-serif'
  pen.textBaseline = 'middle'
  pen.textAlign = 'right'
  const chosen = new Set(shown.chosen.layers.length === shown.layers.length ? [] : shown.chosen.layers)
  const every = niceStep(shown.layers.length, plot.height / 15)
  for (const [row, layer] of shown.layers.entries()) {
    const marked = chosen.has(layer) && chosen.size <= 3
    const near = [row - 1, row + 1].some((other) => chosen.size <= 3 && chosen.has(shown.layers[other]))
    if (!marked && (row % every || (near && plot.cell[1] < 12))) continue
    pen.fillStyle = marked ? '#f0f2f7' : '#8b92a1'
    pen.fillText(`${layer}`, plot.left - 5, plot.top + (row + 0.5) * plot.cell[1])
  }
  pen.textBaseline = 'alphabetic'
  pen.textAlign = 'center'
  const base = Math.min(plot.top + plot.height + 12, height - 4)
  const step = niceStep(shown.steps.length, plot.width / 30)
  pen.fillStyle = '#8b92a1'
  for (const [column, number] of shown.steps.entries()) {
    if (column % step === 0) pen.fillText(`${number}`, plot.left + (column + 0.5) * plot.cell[0], base)
  }
  pen.textAlign = 'left'
  pen.fillText('step', plot.left + plot.width + GAP, base)
}

/**
 * Every how many a label fits: 1, 2, 5, or a multiple of 10.
 * @param {number} count
 * @param {number} room
 * @returns {number}
 */
export function niceStep(count, room) {
  return [1, 2, 5, 10, 20, 50].find((every) => count / every <= room) ?? 100
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {Plot} plot
 * @param {Shown} shown
 */
function drawBars(pen, plot, shown) {
  if (!shown.charts.length) return
  const charts = shown.charts.map(({ chart }) => chart)
  const { means, chance } = layerMeans(charts, shown.layers.length, shown.steps.length)
  const top = Math.max(1e-6, chance ?? 0, ...means.filter((mean) => !Number.isNaN(mean)))
  const left = plot.left + plot.width + GAP
  const best = [...means.keys()].filter((row) => !Number.isNaN(means[row])).sort((a, b) => means[b] - means[a])
  const bright = new Set(best.slice(0, means.length > 4 ? 3 : 0))
  for (const [row, mean] of means.entries()) {
    if (Number.isNaN(mean)) continue
    pen.fillStyle = shown.charts.length === 1 ? shown.charts[0].colour : '#ffb85c'
    pen.globalAlpha = bright.has(row) || !bright.size ? 1 : 0.45
    const tall = Math.max(1, plot.cell[1] - Math.min(2, plot.cell[1] * 0.25))
    pen.fillRect(left, plot.top + row * plot.cell[1], Math.max(1, (BARS - 4) * (mean / top)), tall)
  }
  pen.globalAlpha = 1
  if (chance === null) return
  pen.strokeStyle = '#f0f2f7'
  pen.lineWidth = 1
  pen.setLineDash([3, 3])
  pen.beginPath()
  pen.moveTo(left + (BARS - 4) * (chance / top), plot.top)
  pen.lineTo(left + (BARS - 4) * (chance / top), plot.top + plot.height)
  pen.stroke()
  pen.setLineDash([])
}
