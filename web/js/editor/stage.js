/** The picture with its boxes, paths and points: drawn, and moved by the pointer. */
import { INK } from '../colours.js'
import { onPointer } from '../pointer.js'
import { Surface } from '../surface.js'
import { brushDrag, drawBrush, drawMask, maskBox } from './brush.js'
import { find, setKey } from './edits.js'
import { BOXES } from './grammar.js'
import { cursorOf, HANDLE, handles, hitAt, inClip, onStage, viewOf } from './hits.js'
import { boxAt, centre, moved, neighbours, normal, resized } from './motion.js'
import { keyValue } from './scene.js'

/** @typedef {import('./editor.js').Editor} Editor */
/** @typedef {import('./scene.js').Track} Track */
/** @typedef {import('./values.js').Corners} Corners */
/** @typedef {import('../pointer.js').Spot} Spot */
/** @typedef {CanvasRenderingContext2D} Ctx */

/** Tokens of the model: [width, height] of one and of its frame, and how pictures become that. */
/** @typedef {{token: [number, number], frame: [number, number], fit: string}} Grid */
/** @typedef {(context: Ctx, frame: number, x: number, y: number, width: number, height: number) => boolean} DrawPicture */

const FONT = '600 11px Inter, ui-sans-serif, system-ui, sans-serif'
const MOST_PATH = 600 // points of a path that are drawn

export class Stage {
  /**
   * @param {Editor} editor
   * @param {object} look
   * @param {DrawPicture} look.picture
   * @param {() => Grid | null} look.grid null where it is not known, or not wanted
   * @param {(context: Ctx, view: import('./hits.js').View) => boolean} look.animation the rough preview while it plays
   * @param {import('./pinning.js').Pinning} look.pinning points that a click pins
   */
  constructor(editor, look) {
    this.editor = editor
    this.look = look
    /** @type {import('./hits.js').Hit | null} */
    this.hovered = null
    /** @type {{x: number, y: number} | null} where the brush is */
    this.spot = null
    /** @type {Corners | null} a box that is being drawn */
    this.rubber = null
    this.surface = new Surface((context, width, height) => this.draw(context, width, height), 'Boxes on the picture')
    this.element = this.surface.element
    this.view = viewOf(editor.clip, 1, 1)
    onPointer(this.element, {
      press: (spot) => this.press(spot),
      hover: (spot) => this.hover(spot),
      leave: () => {
        this.spot = null
        this.point(null)
        if (editor.brushing) editor.changed()
      }
    })
  }

  paint() {
    this.surface.paint()
  }

  // -- pointer --------------------------------------------------------------------------------------------------------
  /** @param {Spot} spot */
  hit(spot) {
    return hitAt(this.shown(), spot)
  }

  /** @param {Spot} spot */
  hover(spot) {
    this.spot = spot
    this.point(this.hit(spot))
    if (this.editor.brushing) this.editor.changed()
  }

  /** @param {import('./hits.js').Hit | null} hit */
  point(hit) {
    const { locked, brushing } = this.editor
    if (this.look.pinning.on) {
      this.element.style.cursor = 'crosshair'
      return
    }
    this.element.style.cursor = locked ? (hit ? 'pointer' : 'default') : brushing ? 'none' : cursorOf(hit)
    if (JSON.stringify(hit) === JSON.stringify(this.hovered)) return
    this.hovered = hit
    this.editor.changed()
  }

  /**
   * @param {Spot} spot
   * @returns {import('../pointer.js').Drag | null}
   */
  press(spot) {
    const { editor } = this
    editor.playing = false
    if (this.look.pinning.on) {
      this.look.pinning.click(this.view, spot)
      return null
    }
    if (editor.brushing && !editor.locked) return this.brushed(spot)
    const hit = this.hit(spot)
    if (hit && hit.name !== editor.selected) editor.select(hit.name)
    if (editor.locked) return null
    const track = editor.track(hit?.name ?? null)
    if (!hit || !track) return this.drawing(spot)
    if (hit.part === 'dot') return this.dotDrag(track, hit.index ?? 0, spot)
    if (editor.kind !== BOXES && (hit.part === 'box' || editor.seen(track).mask)) return this.drawing(spot, track)
    return this.boxDrag(track, hit, spot)
  }

  /** @param {Spot} from */
  brushed(from) {
    const drag = brushDrag(this.editor, () => this.view, from)
    return (
      drag && {
        ...drag,
        move: (/** @type {Spot} */ spot) => {
          this.spot = spot
          drag.move?.(spot)
        }
      }
    )
  }

  /**
   * @param {Track} track
   * @param {import('./hits.js').Hit} hit
   * @param {Spot} from
   */
  boxDrag(track, hit, from) {
    const { editor } = this
    const frame = hit.frame ?? editor.frame
    const box = editor.seen(track, frame).box
    if (!box) return null
    const [x0, y0] = inClip(this.view, from)
    const move = (/** @type {Spot} */ spot) => {
      const [x, y] = inClip(this.view, spot)
      const whole = hit.part === 'box' || hit.part === 'path'
      const made = whole ? shifted(box, x - x0, y - y0, spot.event.shiftKey) : resized(box, hit.part, x, y)
      editor.try(editor.boxed(track.name, frame, made))
    }
    return {
      move,
      end: (/** @type {Spot} */ _, /** @type {boolean} */ was) => {
        if (was) editor.settle()
        else if (hit.part === 'path') editor.seek(frame)
      },
      cancel: () => editor.drop()
    }
  }

  /**
   * A point of a prompt: dragged, or (with Alt) taken away.
   * @param {Track} track
   * @param {number} index
   * @param {Spot} from
   */
  dotDrag(track, index, from) {
    const { editor } = this
    const { box, dots } = editor.seen(track)
    const put = (/** @type {import('./scene.js').Dot[]} */ made) => {
      const { frame, clip } = editor
      if (!made.length && !box) return editor.unpin()
      editor.apply((doc) => setKey(doc, track.name, frame, keyValue(doc, track.name, { box, dots: made }, clip)))
    }
    if (from.event.altKey) {
      put(dots.filter((_, i) => i !== index))
      return null
    }
    return {
      move: (/** @type {Spot} */ spot) => {
        const [x, y] = inClip(this.view, spot)
        const made = dots.map((dot, i) => (i === index ? { ...dot, x, y } : dot))
        editor.try((doc) =>
          setKey(doc, track.name, editor.frame, keyValue(doc, track.name, { box, dots: made }, editor.clip))
        )
      },
      end: (/** @type {Spot} */ _, /** @type {boolean} */ was) => {
        if (was) editor.settle()
        else put(dots.map((dot, i) => (i === index ? { ...dot, inside: !dot.inside } : dot)))
      },
      cancel: () => editor.drop()
    }
  }

  /**
   * A box on an empty place; where prompts are edited a click is a point.
   * @param {Spot} from
   * @param {Track} [own] whose box the press lies in
   */
  drawing(from, own) {
    const { editor } = this
    const [x0, y0] = inClip(this.view, from)
    return {
      move: (/** @type {Spot} */ spot) => {
        const [x, y] = inClip(this.view, spot)
        this.rubber = normal([x0, y0, x, y])
        editor.changed()
      },
      end: (/** @type {Spot} */ spot, /** @type {boolean} */ was) => {
        this.rubber = null
        const [x, y] = inClip(this.view, spot)
        if (was) this.drawn({ box: normal([x0, y0, x, y]), dots: [] })
        else if (editor.kind !== BOXES) this.dotted({ x, y, inside: !(editor.minus || spot.event.altKey) }, own)
        else editor.select(null)
      },
      cancel: () => {
        this.rubber = null
        editor.changed()
      }
    }
  }

  /** @param {{box: Corners | null, dots: import('./scene.js').Dot[]}} key */
  drawn(key) {
    const { editor } = this
    const target = editor.target()
    if (!target) return
    const own = editor.track(target.name)
    const dots = own && editor.kind !== BOXES ? editor.seen(own).dots : []
    const edit = editor.drawn({ ...key, dots: [...dots, ...key.dots] })
    if (!edit) return
    editor.apply(edit)
    editor.selected = find(editor.doc, target.name) ? target.name : editor.selected
    editor.wanted = ''
    editor.show()
    editor.changed()
  }

  /**
   * @param {import('./scene.js').Dot} dot
   * @param {Track} [own]
   */
  dotted(dot, own) {
    const { editor } = this
    const track = own ?? (editor.wanted ? undefined : editor.track(editor.selected))
    if (!track) return this.drawn({ box: null, dots: [dot] })
    const { box, dots, mask } = editor.seen(track)
    if (mask) return editor.say(`${track.name} is painted in this frame. Del takes the mask away; then click points.`)
    const made = { box, dots: [...dots, dot] }
    editor.apply((doc) => setKey(doc, track.name, editor.frame, keyValue(doc, track.name, made, editor.clip)))
  }

  // -- drawing --------------------------------------------------------------------------------------------------------
  /** @returns {import('./hits.js').Shown[]} */
  shown() {
    const { editor, view } = this
    return editor.scene.tracks.map((track) => {
      const { box, dots, mask } = editor.seen(track)
      const around = mask ? maskBox(mask, editor.clip, track.ink) : box
      const selected = track.name === editor.selected
      const path = selected && editor.kind === BOXES ? this.path(track) : []
      const on = ({ x = 0, y = 0 }) => ({ x: view.left + x * view.scale, y: view.top + y * view.scale })
      return { name: track.name, selected, box: around && onStage(view, around), dots: dots.map(on), path }
    })
  }

  /**
   * Where the centre of a track is in each frame, on the stage.
   * @param {Track} track
   */
  path(track) {
    const { clip } = this.editor
    const keyed = new Set(track.keys.map(({ frame }) => frame))
    const step = Math.ceil(clip.frames / MOST_PATH)
    /** @type {import('./hits.js').Shown['path']} */
    const found = []
    for (let frame = 0; frame < clip.frames; frame += 1) {
      if (frame % step && !keyed.has(frame)) continue
      const box = boxAt(track.keys, frame, clip.hold)
      if (!box) continue
      const [x, y] = centre(onStage(this.view, box))
      found.push({ frame, x, y, key: keyed.has(frame) })
    }
    return found
  }

  /**
   * @param {Ctx} context
   * @param {number} width
   * @param {number} height
   */
  draw(context, width, height) {
    const { editor, look } = this
    const view = viewOf(editor.clip, width, height)
    this.view = view
    context.fillStyle = INK.page
    context.fillRect(0, 0, width, height)
    const [x0, y0, x1, y1] = onStage(view, [0, 0, editor.clip.width, editor.clip.height])
    const playing = editor.playing && look.animation(context, view)
    if (!playing && !look.picture(context, editor.frame, x0, y0, x1 - x0, y1 - y0))
      emptyPicture(context, x0, y0, x1 - x0, y1 - y0)
    const grid = look.grid()
    if (grid) drawGrid(context, view, editor.clip, grid)
    context.globalAlpha = editor.error ? 0.35 : 1
    const ordered = [...editor.scene.tracks].sort(
      (one, other) => Number(one.name === editor.selected) - Number(other.name === editor.selected)
    )
    for (const track of ordered) this.drawTrack(context, track, playing)
    context.globalAlpha = 1
    if (!playing) look.pinning.draw(context, view)
    if (editor.brushing && this.spot && !editor.locked)
      drawBrush(context, this.spot, editor.radius * view.scale, editor.minus)
    if (this.rubber) frameOf(context, onStage(view, this.rubber), INK.accent, 1.5, [5, 4])
  }

  /**
   * @param {Ctx} context
   * @param {Track} track
   * @param {boolean} playing
   */
  drawTrack(context, track, playing) {
    const { editor, view } = this
    const { box, dots, mask } = editor.seen(track)
    const selected = track.name === editor.selected
    const hovered = this.hovered?.name === track.name
    if (editor.kind === BOXES) {
      if (selected && !playing) this.drawGhosts(context, track)
      this.drawPath(context, track, selected)
    }
    if (box) {
      const on = onStage(view, box)
      if (!playing) {
        context.fillStyle = track.ink
        context.globalAlpha *= selected ? 0.16 : 0.09
        context.fillRect(on[0], on[1], on[2] - on[0], on[3] - on[1])
        context.globalAlpha = editor.error ? 0.35 : 1
      }
      frameOf(context, on, track.ink, selected ? 2 : hovered ? 1.75 : 1.25)
      label(context, track, on[0], on[1])
      if (selected && !editor.locked && !playing) for (const [, x, y] of handles(on)) handle(context, x, y, track.ink)
    }
    if (mask) {
      drawMask(context, mask, track.ink, onStage(view, [0, 0, editor.clip.width, editor.clip.height]))
      const [x, y] = onStage(view, maskBox(mask, editor.clip, track.ink))
      label(context, track, x, y)
    }
    for (const { x, y, inside } of dots) {
      dot(context, view.left + x * view.scale, view.top + y * view.scale, inside, selected, track.ink)
    }
    if (!box && dots.length)
      label(context, track, view.left + dots[0].x * view.scale + 6, view.top + dots[0].y * view.scale - 4)
  }

  /**
   * The keys before and behind, as shadows.
   * @param {Ctx} context
   * @param {Track} track
   */
  drawGhosts(context, track) {
    const { editor, view } = this
    context.save()
    context.globalAlpha *= 0.55
    for (const { frame, box } of neighbours(track.keys, editor.frame)) {
      if (!box) continue
      const on = onStage(view, box)
      frameOf(context, on, track.ink, 1, [3, 4])
      context.font = '10px Inter, ui-sans-serif, sans-serif'
      context.fillStyle = track.ink
      context.fillText(String(frame), on[0] + 3, on[3] - 4)
    }
    context.restore()
  }

  /**
   * The path: wider where it is faster, a dot a frame, a point at each key.
   * @param {Ctx} context
   * @param {Track} track
   * @param {boolean} selected
   */
  drawPath(context, track, selected) {
    const points = this.path(track)
    if (points.length < 2 || points.every(({ x, y }) => x === points[0].x && y === points[0].y)) return
    context.save()
    context.strokeStyle = track.ink
    context.fillStyle = track.ink
    context.globalAlpha *= selected ? 0.9 : 0.4
    context.lineWidth = selected ? 1.5 : 1
    context.beginPath()
    points.forEach((point, i) => {
      const joined = i > 0 && point.frame - points[i - 1].frame <= Math.ceil(this.editor.clip.frames / MOST_PATH)
      context[joined ? 'lineTo' : 'moveTo'](point.x, point.y)
    })
    context.stroke()
    if (selected) {
      for (const { x, y } of points) context.fillRect(x - 1.5, y - 1.5, 3, 3)
      for (const { frame, x, y, key } of points) if (key) knot(context, x, y, frame === this.editor.frame, track.ink)
    }
    context.restore()
  }
}

/**
 * @param {Corners} box
 * @param {number} dx
 * @param {number} dy
 * @param {boolean} straight along the longer way alone
 * @returns {Corners}
 */
function shifted(box, dx, dy, straight) {
  if (!straight) return moved(box, dx, dy)
  return Math.abs(dx) > Math.abs(dy) ? moved(box, dx, 0) : moved(box, 0, dy)
}

/**
 * @param {Ctx} context
 * @param {Corners} box
 * @param {string} ink
 * @param {number} width
 * @param {number[]} [dash]
 */
function frameOf(context, [x0, y0, x1, y1], ink, width, dash = []) {
  context.setLineDash(dash)
  context.lineWidth = width + 1.5
  context.strokeStyle = 'rgb(0 0 0 / 0.55)'
  context.strokeRect(x0, y0, x1 - x0, y1 - y0)
  context.lineWidth = width
  context.strokeStyle = ink
  context.strokeRect(x0, y0, x1 - x0, y1 - y0)
  context.setLineDash([])
}

/**
 * @param {Ctx} context
 * @param {Track} track
 * @param {number} x
 * @param {number} y
 */
function label(context, track, x, y) {
  context.font = FONT
  const text = track.problem ? `${track.name} \u26a0` : track.name
  const width = context.measureText(text).width + 10
  const top = Math.max(y - 18, 1)
  context.fillStyle = track.ink
  context.beginPath()
  context.roundRect(Math.max(x - 1, 1), top, width, 16, 3)
  context.fill()
  context.fillStyle = 'rgb(12 14 18)'
  context.fillText(text, Math.max(x - 1, 1) + 5, top + 12)
}

/**
 * @param {Ctx} context
 * @param {number} x
 * @param {number} y
 * @param {string} ink
 */
function handle(context, x, y, ink) {
  context.fillStyle = 'white'
  context.strokeStyle = ink
  context.lineWidth = 1.5
  context.beginPath()
  context.roundRect(x - HANDLE / 2, y - HANDLE / 2, HANDLE, HANDLE, 2)
  context.fill()
  context.stroke()
}

/**
 * @param {Ctx} context
 * @param {number} x
 * @param {number} y
 * @param {boolean} now
 * @param {string} ink
 */
function knot(context, x, y, now, ink) {
  context.beginPath()
  context.moveTo(x, y - 6)
  context.lineTo(x + 6, y)
  context.lineTo(x, y + 6)
  context.lineTo(x - 6, y)
  context.closePath()
  context.fillStyle = now ? 'white' : ink
  context.fill()
  context.strokeStyle = 'rgb(0 0 0 / 0.7)'
  context.lineWidth = 1.25
  context.stroke()
}

/**
 * @param {Ctx} context
 * @param {number} x
 * @param {number} y
 * @param {boolean} inside
 * @param {boolean} selected
 * @param {string} ink
 */
function dot(context, x, y, inside, selected, ink) {
  context.beginPath()
  context.arc(x, y, selected ? 8 : 6, 0, 2 * Math.PI)
  context.fillStyle = inside ? ink : 'rgb(20 22 28)'
  context.fill()
  context.strokeStyle = inside ? 'rgb(10 12 16)' : ink
  context.lineWidth = 2
  context.stroke()
  context.strokeStyle = inside ? 'rgb(10 12 16)' : 'white'
  context.beginPath()
  context.moveTo(x - 4, y)
  context.lineTo(x + 4, y)
  if (inside) {
    context.moveTo(x, y - 4)
    context.lineTo(x, y + 4)
  }
  context.stroke()
}

/**
 * Squares where no picture is known yet.
 * @param {Ctx} context
 * @param {number} x
 * @param {number} y
 * @param {number} width
 * @param {number} height
 */
function emptyPicture(context, x, y, width, height) {
  context.fillStyle = 'rgb(34 37 45)'
  context.fillRect(x, y, width, height)
  context.save()
  context.beginPath()
  context.rect(x, y, width, height)
  context.clip()
  context.fillStyle = 'rgb(40 44 53)'
  const side = Math.max(8, width / 24)
  for (let row = 0; row * side < height; row += 1) {
    for (let column = row % 2; column * side < width; column += 2)
      context.fillRect(x + column * side, y + row * side, side, side)
  }
  context.restore()
}

/**
 * What the model will see of the picture, and its tokens.
 * @param {Ctx} context
 * @param {import('./hits.js').View} view
 * @param {import('./values.js').Size} size
 * @param {Grid} grid
 */
function drawGrid(context, view, size, grid) {
  const crop = cropOf(size, grid)
  const [x0, y0, x1, y1] = onStage(view, crop)
  const [left, top, right, bottom] = onStage(view, [0, 0, size.width, size.height])
  context.save()
  context.fillStyle = 'rgb(0 0 0 / 0.5)'
  context.beginPath()
  context.rect(left, top, right - left, bottom - top)
  context.rect(x0, y0, x1 - x0, y1 - y0)
  context.fill('evenodd')
  const [columns, rows] = [grid.frame[0] / grid.token[0], grid.frame[1] / grid.token[1]]
  context.strokeStyle = 'rgb(255 255 255 / 0.22)'
  context.lineWidth = 1
  context.beginPath()
  for (let column = 0; column <= columns; column += 1) {
    const x = x0 + ((x1 - x0) * column) / columns
    context.moveTo(x, y0)
    context.lineTo(x, y1)
  }
  for (let row = 0; row <= rows; row += 1) {
    const y = y0 + ((y1 - y0) * row) / rows
    context.moveTo(x0, y)
    context.lineTo(x1, y)
  }
  context.stroke()
  frameOf(context, [x0, y0, x1, y1], INK.accent, 1)
  context.restore()
}

/**
 * The part of the picture that becomes the model's frame (`core/grid.py`, Framing); with bars it is more than the picture.
 * @param {import('./values.js').Size} size
 * @param {Grid} grid
 * @returns {Corners}
 */
export function cropOf({ width, height }, { frame, fit }) {
  if (fit === 'pad') {
    const scale = Math.min(frame[0] / width, frame[1] / height)
    const [w, h] = [Math.floor(width * scale), Math.floor(height * scale)]
    const [left, top] = [Math.floor((frame[0] - w) / 2), Math.floor((frame[1] - h) / 2)]
    const [across, down] = [width / w, height / h]
    return [0 - left * across, 0 - top * down, (frame[0] - left) * across, (frame[1] - top) * down]
  }
  if (fit !== 'center') return [0, 0, width, height]
  const [old, made] = [width / height, frame[0] / frame[1]]
  const x = old > made ? Math.round((width - width * (made / old)) / 2) : 0
  const y = old < made ? Math.round((height - height * (old / made)) / 2) : 0
  return [x, y, width - x, height - y]
}
