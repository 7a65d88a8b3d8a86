/**
 * The state of one editor and what one can do with it. Knows no page: a host gives the text, the clip and the names, and is
 * told when something has changed.
 */
import { add, dropKey, find, moveKey, remove, rename, setKey } from './edits.js'
import { BOXES, instances, MASKS, parse, print } from './grammar.js'
import { History } from './history.js'
import { importTracks } from './imports.js'
import { allowed, boxAt, centre, moved } from './motion.js'
import { timeText } from './phrases.js'
import { keyValue, sceneOf, seenAt, withoutShares } from './scene.js'
import { nameKey } from './text.js'

/** @typedef {import('./grammar.js').Doc} Doc */
/** @typedef {import('./scene.js').Clip} Clip */
/** @typedef {import('./scene.js').Track} Track */
/** @typedef {import('./values.js').Corners} Corners */
/** @typedef {import('./phrases.js').Time} Time */
/**
 * Words that hold at a time: the place of the node that binds them and their line there; linked where that text comes over
 * a link.
 * @typedef {{name: string, time: Time, line: number, place: number, linked: boolean}} Timed
 */
/** A name that is bound downstream. @typedef {{name: string, role: string, time: Time | null}} Bound */

/**
 * What an editor edits.
 * @typedef {object} Host
 * @property {() => string} read the text
 * @property {(text: string) => void} write
 * @property {() => Clip} clip
 * @property {() => Bound[]} names
 * @property {() => Timed[]} [times] verbs and words that hold at a time
 * @property {(words: Timed, time: Time) => void} [retime] writes another time behind them
 * @property {() => boolean} connected whether something else is taken in place of the text
 * @property {string} [instead] what is said of that
 */

/** Frames that a prompt or a box may be asked for beyond the clip's end are none. */
const clamp = (/** @type {number} */ value, /** @type {number} */ low, /** @type {number} */ high) =>
  Math.max(low, Math.min(high, value))

export class Editor {
  /**
   * @param {Host} host
   * @param {import('./grammar.js').Kind} kind
   * @param {() => void} changed
   */
  constructor(host, kind, changed) {
    this.host = host
    this.kind = kind
    this.changed = changed
    this.history = new History(host.read())
    /** The time that was dragged since the last edit. @type {{words: Timed, time: Time} | null} */
    this.timing = null
    this.frame = 0
    /** @type {string | null} */
    this.selected = null
    /** @type {string} what the next drawn box is called; empty takes the next free name */
    this.wanted = ''
    this.minus = false
    /** Whether drags paint. Where masks are all there is, they always do. */
    this.brushing = kind === MASKS
    this.brushSize = 0.04 // radius, of the clip's shorter side
    this.playing = false
    /** Whether anything was done here yet; until then the first instance is chosen. */
    this.edited = false
    this.note = ''
    /** @type {import('./grammar.js').GrammarError | null} */
    this.error = null
    /** The last text that could be read. @type {Doc} */
    this.doc = { kind, form: 'lines', items: [] }
    /** @type {Doc | null} what a drag has made of it */
    this.draft = null
    this.clip = host.clip()
    this.bound = host.names()
    this.timed = host.times?.() ?? []
    this.scene = sceneOf(this.doc, this.clip)
    this.read()
    this.selected = this.scene.tracks[0]?.name ?? null
  }

  /** Takes over what the host has now: its text, clip and names. */
  refresh() {
    const text = this.host.read()
    const [clip, bound, timed] = [this.host.clip(), this.host.names(), this.host.times?.() ?? []]
    const told = same(clip, this.clip) && same(bound, this.bound) && same(timed, this.timed)
    if (told && text === this.history.now) return
    this.clip = clip
    this.bound = bound
    this.timed = timed
    this.frame = clamp(this.frame, 0, clip.frames - 1)
    if (text !== this.history.now) this.draft = null
    // What a workflow brings is no edit: there is nothing before it.
    if (this.history.past.length || this.history.future.length) this.history.push(text)
    else this.history = new History(text)
    this.read()
    this.selected ??= this.edited ? null : (this.scene.tracks[0]?.name ?? null)
    this.changed()
  }

  /** Reads the text; one that is broken leaves the last good document in sight and nothing can be edited. */
  read() {
    try {
      this.doc = parse(this.history.now, this.kind)
      this.error = null
    } catch (error) {
      this.error = /** @type {import('./grammar.js').GrammarError} */ (error)
    }
    this.show()
  }

  show() {
    this.scene = sceneOf(this.draft ?? this.doc, this.clip)
    if (this.selected !== null && !this.track(this.selected)) this.selected = null
  }

  /** Rows of the timeline. */
  get rows() {
    return this.scene.tracks.length + this.timed.length
  }

  get locked() {
    return this.error !== null || this.host.connected()
  }

  /**
   * @param {string | null} name
   * @returns {Track | undefined}
   */
  track(name) {
    return this.scene.tracks.find((one) => one.name === name)
  }

  /**
   * The box and points of a track as they are to be seen in a frame.
   * @param {Track} track
   * @param {number} [frame]
   */
  seen(track, frame = this.frame) {
    return seenAt(this.draft ?? this.doc, track, frame, this.clip.hold)
  }

  /** @param {string} text said to the person, until the next thing happens */
  say(text) {
    this.note = text
    this.changed()
  }

  // -- edits ----------------------------------------------------------------------------------------------------------
  /**
   * One edit, kept for undo and written to the host.
   * @param {(doc: Doc) => Doc} edit
   */
  apply(edit) {
    if (this.locked) return
    this.note = ''
    try {
      this.doc = edit(withoutShares(this.doc, this.clip))
      this.draft = null
      this.keep(print(this.doc))
    } catch (error) {
      this.draft = null
      this.note = /** @type {Error} */ (error).message
    }
    this.show()
    this.changed()
  }

  /**
   * Shows what an edit would make, while a drag goes on.
   * @param {(doc: Doc) => Doc} edit
   */
  try(edit) {
    if (this.locked) return
    try {
      this.draft = edit(withoutShares(this.doc, this.clip))
    } catch (error) {
      this.draft = null
      this.note = /** @type {Error} */ (error).message
    }
    this.show()
    this.changed()
  }

  /** Makes the draft of a drag an edit. */
  settle() {
    const draft = this.draft
    if (draft) this.apply(() => draft)
  }

  drop() {
    this.draft = null
    this.show()
    this.changed()
  }

  /** @param {string} text */
  keep(text) {
    this.edited = true
    this.timing = null
    this.history.push(text)
    this.host.write(text)
  }

  /** @param {string | null} text */
  go(text) {
    if (text === null || this.host.connected()) return
    this.host.write(text)
    this.note = ''
    this.draft = null
    this.read()
    this.changed()
  }

  /**
   * Writes another time behind words.
   * @param {Timed} words
   * @param {Time} time
   */
  retime(words, time) {
    this.host.retime?.(words, time)
    this.timing = { words, time }
    this.refresh()
  }

  undo() {
    const last = this.timing
    this.timing = null
    const now = this.timed.find(
      ({ line, place, time }) =>
        last && line === last.words.line && place === last.words.place && timeText(time) === timeText(last.time)
    )
    if (!last || !now) return this.go(this.history.undo())
    this.host.retime?.(now, last.words.time)
    this.note = ''
    this.refresh()
  }

  redo() {
    this.go(this.history.redo())
  }

  /**
   * An edit that puts a box at a frame.
   * @param {string} name
   * @param {number} frame
   * @param {Corners} box
   * @returns {(doc: Doc) => Doc}
   */
  boxed(name, frame, box) {
    const key = this.track(name)?.keys.find((one) => one.frame === frame)
    const made = { box: allowed(box, this.clip), dots: key?.dots ?? [] }
    return (doc) => setKey(doc, name, frame, keyValue(doc, name, made, this.clip))
  }

  /** The brush's radius in pixels of the clip. */
  get radius() {
    return Math.max(0.5, this.brushSize * Math.min(this.clip.width, this.clip.height))
  }

  /** @param {number} factor */
  resizeBrush(factor) {
    this.brushSize = clamp(this.brushSize * factor, 0.005, 0.25)
    this.changed()
  }

  /**
   * An edit that puts a painted mask at a frame, in place of what is there; nothing painted takes it away.
   * @param {import('./heads.js').Head} head
   * @param {number} frame
   * @param {import('./painted.js').Mask | null} mask
   * @returns {(doc: Doc) => Doc}
   */
  painted({ name, role }, frame, mask) {
    return (doc) => {
      const own = find(doc, name)
      if (!mask) return own ? dropKey(doc, name, frame) : doc
      const value = { points: [], box: null, mask }
      return own ? setKey(doc, name, frame, value) : add(doc, { name, role }, frame, value)
    }
  }

  /**
   * An edit that makes an instance of a drawn box or of points.
   * @param {{box: Corners | null, dots: import('./scene.js').Dot[]}} key
   * @returns {((doc: Doc) => Doc) | null} null where no name is left, which is said
   */
  drawn(key) {
    const made = { ...key, box: key.box && allowed(key.box, this.clip) }
    const target = this.target()
    if (!target) return null
    const { name, role } = target
    return (doc) => {
      const value = keyValue(doc, name, made, this.clip)
      return find(doc, name) ? setKey(doc, name, this.frame, value) : add(doc, { name, role }, this.frame, value)
    }
  }

  /** Whose the next drawn box is: the chosen one that has none in this frame, or somebody new. */
  target() {
    const own = this.track(this.selected)
    const there = own && this.seen(own)
    if (own && !this.wanted && !there?.box && !there?.mask) return { name: own.name, role: own.role }
    return this.fresh()
  }

  /**
   * Somebody who has no line yet: the name that was asked for, else the next one that is free.
   * @returns {{name: string, role: string | null} | null} null where every bound name is taken
   */
  free() {
    const taken = new Set(this.scene.tracks.map(({ name }) => nameKey(name)))
    if (this.wanted) return { name: this.wanted, role: null }
    if (this.bound.length) {
      const free = this.bound.find(({ name }) => !taken.has(nameKey(name)))
      return free ? { name: free.name, role: free.role === 'instance' ? null : free.role } : null
    }
    let number = taken.size + 1
    while (taken.has(`thing ${number}`)) number += 1
    return { name: `thing ${number}`, role: null }
  }

  fresh() {
    const free = this.free()
    if (!free) this.say('Every name that the phrases bind has a box. Choose one to move it, or write another phrase.')
    return free
  }

  /**
   * @param {number} dx pixels of the clip
   * @param {number} dy
   */
  nudge(dx, dy) {
    const track = this.track(this.selected)
    const box = track && this.seen(track).box
    if (track && box) this.apply(this.boxed(track.name, this.frame, moved(box, dx, dy)))
  }

  /** A key where the instance is anyway. */
  pin() {
    const track = this.track(this.selected)
    const box = track && this.seen(track).box
    if (track && box) this.apply(this.boxed(track.name, this.frame, box))
  }

  /** Takes the key of this frame away. */
  unpin() {
    const track = this.track(this.selected)
    if (!track) return
    if (track.keys.some(({ frame }) => frame === this.frame)) {
      this.apply((doc) => dropKey(doc, track.name, this.frame))
    } else {
      this.say(`${track.name} has no key at frame ${this.frame}. Shift+Del takes the whole instance away.`)
    }
  }

  /** Lets the instance leave at this frame, or come back. */
  toggle() {
    const track = this.track(this.selected)
    if (!track) return
    const { name, keys } = track
    const off = keys.find((key) => key.frame === this.frame && key.off)
    if (off && keys.length > 1) return this.apply((doc) => dropKey(doc, name, this.frame))
    if (this.seen(track).box || this.kind !== BOXES) return this.apply((doc) => setKey(doc, name, this.frame, null))
    const last = keys.findLast(({ frame, box }) => box && frame < this.frame) ?? keys.find(({ box }) => box)
    if (last?.box) this.apply(this.boxed(name, this.frame, last.box))
  }

  /**
   * @param {string} name
   * @param {number} from
   * @param {number} to
   * @returns {(doc: Doc) => Doc}
   */
  retimed(name, from, to) {
    return (doc) => moveKey(doc, name, from, to)
  }

  discard() {
    const name = this.selected
    if (name !== null) this.apply((doc) => remove(doc, name))
  }

  /**
   * @param {string} name
   * @param {import('./heads.js').Head} head
   */
  rename(name, head) {
    this.apply((doc) => {
      const made = rename(doc, name, head)
      this.selected = head.name
      return made
    })
  }

  /** The chosen instance as a line; all of them where none is chosen. */
  copied() {
    const chosen = instances(this.doc).filter(({ name }) => this.selected === null || name === this.selected)
    const items = chosen.map((instance) => ({ instance, end: '\n' }))
    return print({ ...this.doc, items })
  }

  /**
   * Instances from a text: this grammar, or what other editors keep. One that is here already gets its new keys.
   * @param {string} text
   */
  paste(text) {
    try {
      const found = importTracks(text, this.kind, this.clip, this.bound)
      this.apply((doc) =>
        found.reduce((made, { name, role, keys }) => {
          return keys.reduce((one, { frame, value }) => {
            return find(one, name) ? setKey(one, name, frame, value) : add(one, { name, role }, frame, value)
          }, made)
        }, doc)
      )
      if (!this.note) this.selected = found[0]?.name ?? this.selected
      this.changed()
    } catch (error) {
      this.say(/** @type {Error} */ (error).message)
    }
  }

  // -- looking --------------------------------------------------------------------------------------------------------
  /** @param {string | null} name */
  select(name) {
    this.edited = true
    this.selected = name
    this.wanted = ''
    this.note = ''
    this.changed()
  }

  /** @param {number} step 1 or -1 */
  selectNext(step) {
    const names = this.scene.tracks.map(({ name }) => name)
    if (!names.length) return
    const at = names.indexOf(this.selected ?? '')
    this.select(names[(at + step + names.length + Number(at < 0 && step < 0)) % names.length])
  }

  /** @param {number} frame */
  seek(frame) {
    this.frame = clamp(Math.round(frame), 0, this.clip.frames - 1)
    this.changed()
  }

  /** @param {number} step 1 or -1: to the next key of the chosen instance */
  seekKey(step) {
    const frames = this.track(this.selected)?.keys.map(({ frame }) => frame) ?? []
    const found = step > 0 ? frames.find((one) => one > this.frame) : frames.findLast((one) => one < this.frame)
    if (found !== undefined) this.seek(found)
  }

  /** Pixels a second at this frame of the chosen instance; null where it does not move on. */
  speed() {
    const track = this.track(this.selected)
    if (!track || this.kind !== BOXES) return null
    const at = Math.min(this.frame, this.clip.frames - 2)
    const [now, next] = [at, at + 1].map((frame) => boxAt(track.keys, frame, this.clip.hold))
    if (!now || !next) return null
    const [[x0, y0], [x1, y1]] = [centre(now), centre(next)]
    return Math.hypot(x1 - x0, y1 - y0) * this.clip.fps
  }
}

/**
 * @param {unknown} one
 * @param {unknown} other
 */
function same(one, other) {
  return JSON.stringify(one) === JSON.stringify(other)
}
