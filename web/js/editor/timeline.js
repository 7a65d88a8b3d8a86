/**
 * When each instance is where: a row for each, diamonds for its keys, and the frame that is looked at. Below them a row for
 * each verb and word that holds at a time, whose ends are dragged.
 */
import { INK } from '../colours.js'
import { onPointer } from '../pointer.js'
import { Surface } from '../surface.js'
import { BOXES } from './grammar.js'
import { present, speedAt } from './motion.js'
import { draggedTime, timeText } from './phrases.js'
import { nameKey } from './text.js'

/** @typedef {import('./editor.js').Editor} Editor */
/** @typedef {import('./editor.js').Timed} Timed */
/** @typedef {import('./phrases.js').Time} Time */
/** @typedef {import('./scene.js').Track} Track */
/** @typedef {import('../pointer.js').Spot} Spot */
/** @typedef {CanvasRenderingContext2D} Ctx */

export const RULER = 20
export const ROW = 20
const NARROW = 84 // pixels for names
const WIDE = 150
const ROOM = 480 // from this width on there is room for long names
const RIGHT = 12
const REACH = 8
const FONT = '10px Inter, ui-sans-serif, system-ui, sans-serif'

export class Timeline {
  /** @param {Editor} editor */
  constructor(editor) {
    this.editor = editor
    this.width = 1
    this.left = NARROW
    /** What a drag has made of a time. @type {{words: Timed, time: Time} | null} */
    this.dragged = null
    this.surface = new Surface((context, width, height) => this.draw(context, width, height), 'Key frames')
    this.element = this.surface.element
    onPointer(this.element, { press: (spot) => this.press(spot), hover: (spot) => this.hover(spot) })
  }

  paint() {
    this.surface.paint()
  }

  /** @param {number} frame */
  x(frame) {
    return this.left + ((this.width - this.left - RIGHT) * frame) / Math.max(1, this.editor.clip.frames - 1)
  }

  /** @param {number} x */
  frameAt(x) {
    return Math.round(((x - this.left) / Math.max(1, this.width - this.left - RIGHT)) * (this.editor.clip.frames - 1))
  }

  /** @param {Spot} spot */
  rowAt({ y }) {
    return this.editor.scene.tracks[Math.floor((y - RULER) / ROW)]
  }

  /**
   * The key under the pointer.
   * @param {Spot} spot
   */
  keyAt(spot) {
    const track = this.rowAt(spot)
    const near = track?.keys
      .map((key) => ({ key, far: Math.abs(this.x(key.frame) - spot.x) }))
      .filter(({ far }) => far <= (spot.coarse ? 2 * REACH : REACH))
      .sort((one, other) => one.far - other.far)[0]
    return near ? { track, key: near.key } : null
  }

  /** @param {Time} time where it begins and ends */
  ends([start, end]) {
    const { fps, frames } = this.editor.clip
    const x = (/** @type {number} */ seconds) => this.x(Math.min(seconds * fps, frames - 1))
    return [x(start), x(end ?? Number.POSITIVE_INFINITY)]
  }

  /**
   * The end of a time under the pointer: 0 where it begins, 1 where it ends.
   * @param {Spot} spot
   * @returns {{words: Timed, end: number} | null}
   */
  edgeAt(spot) {
    const { editor } = this
    const words = editor.timed[Math.floor((spot.y - RULER) / ROW) - editor.scene.tracks.length]
    if (!words || words.linked || !editor.host.retime) return null
    const [from, to] = this.ends(words.time)
    const far = [from, to].map((x) => Math.abs(x - spot.x))
    const late = from === to && words.time[0] > 0 // begins where the clip ends: only that can be brought back
    const end = far[1] <= far[0] && !late ? 1 : 0
    return far[end] <= (spot.coarse ? 2 * REACH : REACH) ? { words, end } : null
  }

  /**
   * The end of a time goes to whole frames; one at the clip's last frame goes on to its end.
   * @param {{words: Timed, end: number}} edge
   */
  edgeDrag({ words, end }) {
    const { editor } = this
    return {
      move: (/** @type {Spot} */ { x }) => {
        const time = draggedTime(words.time, end, this.frameAt(x), editor.clip)
        this.dragged = { words, time }
        editor.say(`${words.name} ${timeText(time)}`)
      },
      end: (/** @type {Spot} */ _, /** @type {boolean} */ was) => {
        const made = this.dragged
        this.dragged = null
        if (was && made) editor.retime(words, made.time)
        else editor.refresh()
      },
      cancel: () => {
        this.dragged = null
        this.paint()
      }
    }
  }

  /** @param {Spot} spot */
  hover(spot) {
    const scrubs = spot.x >= this.left - REACH && (spot.y < RULER || !!this.rowAt(spot))
    const other = scrubs ? 'col-resize' : this.rowAt(spot) ? 'pointer' : 'default'
    this.element.style.cursor = this.edgeAt(spot) ? 'ew-resize' : this.keyAt(spot) ? 'grab' : other
  }

  /**
   * @param {Spot} spot
   * @returns {import('../pointer.js').Drag | null}
   */
  press(spot) {
    const { editor } = this
    editor.playing = false
    const edge = this.edgeAt(spot)
    if (edge) return this.edgeDrag(edge)
    const found = this.keyAt(spot)
    const track = this.rowAt(spot)
    if (track) editor.select(track.name)
    if (spot.x < this.left - REACH) return null
    if (!found) {
      editor.seek(this.frameAt(spot.x))
      return { move: (/** @type {Spot} */ { x }) => editor.seek(this.frameAt(x)) }
    }
    editor.seek(found.key.frame)
    return editor.locked ? null : this.keyDrag(found.track, found.key.frame)
  }

  /**
   * A key goes as far as the keys beside it.
   * @param {Track} track
   * @param {number} from
   */
  keyDrag(track, from) {
    const { editor } = this
    const at = track.keys.findIndex(({ frame }) => frame === from)
    const low = (track.keys[at - 1]?.frame ?? -1) + 1
    const high = (track.keys[at + 1]?.frame ?? editor.clip.frames) - 1
    return {
      move: (/** @type {Spot} */ { x }) => {
        const to = Math.max(low, Math.min(high, this.frameAt(x)))
        editor.try(editor.retimed(track.name, from, to))
        editor.seek(to)
      },
      end: (/** @type {Spot} */ _, /** @type {boolean} */ was) => was && editor.settle(),
      cancel: () => editor.drop()
    }
  }

  /**
   * @param {Ctx} context
   * @param {number} width
   * @param {number} height
   */
  draw(context, width, height) {
    this.width = width
    this.left = width < ROOM ? NARROW : WIDE
    const { editor } = this
    context.fillStyle = INK.page
    context.fillRect(0, 0, width, height)
    this.drawRuler(context, height)
    editor.scene.tracks.forEach((track, i) => {
      this.drawRow(context, track, RULER + i * ROW)
    })
    editor.timed.forEach((words, i) => {
      const { dragged } = this
      const own = dragged?.words.place === words.place && dragged.words.line === words.line
      this.drawWords(
        context,
        words.name,
        own ? dragged.time : words.time,
        RULER + (editor.scene.tracks.length + i) * ROW
      )
    })
    const x = this.x(editor.frame)
    context.fillStyle = INK.accent
    context.fillRect(x - 0.75, 3, 1.5, height - 3)
    context.beginPath()
    context.moveTo(x - 6, 1)
    context.lineTo(x + 6, 1)
    context.lineTo(x + 6, 7)
    context.lineTo(x, 13)
    context.lineTo(x - 6, 7)
    context.fill()
  }

  /**
   * @param {Ctx} context
   * @param {number} height
   */
  drawRuler(context, height) {
    const { frames, fps } = this.editor.clip
    const step = tickStep(frames, Math.max(1, (this.width - this.left - RIGHT) / 44))
    context.font = FONT
    context.textAlign = 'center'
    for (let frame = 0; frame < frames; frame += step) {
      const x = this.x(frame)
      context.fillStyle = 'rgb(255 255 255 / 0.07)'
      context.fillRect(x - 0.5, RULER - 4, 1, height)
      context.fillStyle = INK.faint
      context.fillText(String(frame), x, RULER - 7)
    }
    context.textAlign = 'left'
    context.fillText(`${(this.editor.frame / fps).toFixed(2)} s`, 8, RULER - 7)
  }

  /**
   * @param {Ctx} context
   * @param {Track} track
   * @param {number} top
   */
  drawRow(context, track, top) {
    const { editor } = this
    const { frames, hold } = editor.clip
    const selected = track.name === editor.selected
    const middle = top + ROW / 2
    if (selected) {
      context.fillStyle = 'rgb(255 255 255 / 0.06)'
      context.fillRect(0, top, this.width, ROW)
    }
    context.save()
    context.beginPath()
    context.rect(0, top, this.left - 10, ROW)
    context.clip()
    context.font = selected ? `600 ${FONT}` : FONT
    context.fillStyle = track.ink
    context.fillRect(8, middle - 4, 8, 8)
    context.fillStyle = track.problem ? INK.accent : selected ? INK.text : INK.soft
    context.fillText(track.problem ? `\u26a0 ${track.name}` : track.name, 21, middle + 3.5)
    context.restore()
    this.drawTime(context, track, top)
    if (editor.kind === BOXES) {
      context.fillStyle = track.ink
      for (const [first, last] of present(track.keys, frames, hold)) {
        context.globalAlpha = selected ? 0.5 : 0.3
        context.fillRect(this.x(first) - 2, middle - 2, this.x(last) - this.x(first) + 4, 4)
      }
      context.globalAlpha = 1
      if (selected) this.drawSpeed(context, track, top)
    }
    for (const { frame, off } of track.keys)
      diamond(context, this.x(frame), middle, off, selected && frame === editor.frame, track.ink)
  }

  /**
   * When the words of this instance hold, where the phrases say so.
   * @param {Ctx} context
   * @param {Track} track
   * @param {number} top
   */
  drawTime(context, track, top) {
    const time = this.editor.bound.find(({ name }) => nameKey(name) === nameKey(track.name))?.time
    if (time) this.drawSpan(context, time, top, 'rgb(255 255 255 / 0.13)')
  }

  /**
   * A verb or a word, and when it holds.
   * @param {Ctx} context
   * @param {string} name
   * @param {import('./phrases.js').Time} time
   * @param {number} top
   */
  drawWords(context, name, time, top) {
    context.save()
    context.beginPath()
    context.rect(0, top, this.left - 10, ROW)
    context.clip()
    context.font = FONT
    context.fillStyle = INK.faint
    context.fillText(name, 21, top + ROW / 2 + 3.5)
    context.restore()
    this.drawSpan(context, time, top, 'rgb(255 255 255 / 0.22)')
  }

  /**
   * @param {Ctx} context
   * @param {import('./phrases.js').Time} time
   * @param {number} top
   * @param {string} ink
   */
  drawSpan(context, time, top, ink) {
    const [from, to] = this.ends(time)
    context.fillStyle = ink
    context.fillRect(from, top + 2, to - from, ROW - 4)
  }

  /**
   * How fast it goes, as a line over the row.
   * @param {Ctx} context
   * @param {Track} track
   * @param {number} top
   */
  drawSpeed(context, track, top) {
    const { frames, hold } = this.editor.clip
    const step = Math.max(1, Math.ceil(frames / 300))
    /** @type {(number | null)[]} */
    const speeds = []
    for (let frame = 0; frame < frames - 1; frame += step) speeds.push(speedAt(track.keys, frame, hold))
    const most = Math.max(...speeds.map((speed) => speed ?? 0))
    if (!(most > 0)) return
    context.strokeStyle = 'rgb(255 255 255 / 0.75)'
    context.lineWidth = 1
    context.beginPath()
    speeds.forEach((speed, i) => {
      if (speed === null) return
      const y = top + ROW - 3 - (speed / most) * (ROW - 6)
      const joined = i > 0 && speeds[i - 1] !== null
      context[joined ? 'lineTo' : 'moveTo'](this.x(i * step), y)
      context.lineTo(this.x(Math.min((i + 1) * step, frames - 1)), y)
    })
    context.stroke()
  }
}

/**
 * @param {number} frames
 * @param {number} most ticks that fit
 */
function tickStep(frames, most) {
  for (let unit = 1; ; unit *= 10) {
    const step = [1, 2, 4, 5, 8].map((part) => part * unit).find((one) => frames / one <= most)
    if (step) return step
  }
}

/**
 * @param {Ctx} context
 * @param {number} x
 * @param {number} y
 * @param {boolean} off
 * @param {boolean} now
 * @param {string} ink
 */
function diamond(context, x, y, off, now, ink) {
  const side = now ? 7 : 6
  context.beginPath()
  context.moveTo(x, y - side)
  context.lineTo(x + side, y)
  context.lineTo(x, y + side)
  context.lineTo(x - side, y)
  context.closePath()
  context.fillStyle = off ? INK.page : ink
  context.fill()
  context.strokeStyle = now ? 'white' : off ? ink : 'rgb(0 0 0 / 0.65)'
  context.lineWidth = now ? 2 : 1.25
  context.stroke()
}
