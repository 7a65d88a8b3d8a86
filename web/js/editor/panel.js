/** The editor as an element of the page: picture, timeline, a bar of buttons, a line that says where one is. */
import { onNextFrame } from '../surface.js'
import { Editor } from './editor.js'
import { BOXES, MASKS } from './grammar.js'
import { pressed } from './keys.js'
import { Pinning } from './pinning.js'
import { Animation } from './play.js'
import { Stage } from './stage.js'
import { dress, icon } from './style.js'
import { nameKey } from './text.js'
import { ROW, RULER, Timeline } from './timeline.js'

/** @typedef {import('./editor.js').Host} Host */

/**
 * What the panel shows besides the host's text.
 * @typedef {object} Sight
 * @property {import('./stage.js').DrawPicture} picture
 * @property {(seconds: number) => void} seek
 * @property {() => import('./stage.js').Grid | null} grid
 * @property {() => import('./pins.js').Pins | null} [pins] who records where pinned points look
 */

const BAR = 28
const STATE = 28
const LEAST_ROWS = 2 // the picture does not jump where the second box is drawn
const MOST_ROWS = 6
const MARGINS = 20 // that the classic canvas leaves around an element
const ROLES = [
  ['', 'no role'],
  ['subject', 'subject'],
  ['object', 'object']
]

export class Panel {
  /**
   * @param {Host} host
   * @param {import('./grammar.js').Kind} kind
   * @param {Sight} sight
   */
  constructor(host, kind, sight) {
    dress()
    this.sight = sight
    this.gridShown = false
    this.paint = onNextFrame((time) => this.painted(time))
    this.editor = new Editor(host, kind, () => this.paint())
    this.animation = new Animation(this.editor, sight.picture)
    this.pinning = new Pinning(this.editor, sight.pins ?? (() => null), sight.grid)
    this.stage = new Stage(this.editor, {
      picture: sight.picture,
      grid: () => (this.gridShown ? sight.grid() : null),
      animation: (context, view) => this.animation.draw(context, view),
      pinning: this.pinning
    })
    this.timeline = new Timeline(this.editor)
    this.element = document.createElement('div') // what the host holds, wherever the editor is
    this.element.style.cssText = 'width:100%;height:100%;min-height:0'
    this.root = element('div', 'matrix-editor')
    this.build()
    this.element.append(this.root)
    this.away = element('div', 'matrix-editor-away', 'The editor is open in large. Click to bring it back.')
    this.away.addEventListener('click', () => this.enlarge(false))
    /** @type {HTMLElement | null} */
    this.large = null
    new ResizeObserver(() => this.paint()).observe(this.root)
    this.paint()
  }

  /**
   * The least height for a width, in pixels.
   * @param {number} width
   */
  heightFor(width) {
    const { clip, rows } = this.editor
    const picture = Math.min(165, Math.max(130, (width * clip.height) / clip.width))
    return BAR + picture + RULER + Math.min(Math.max(rows, LEAST_ROWS), MOST_ROWS) * ROW + STATE + 14
  }

  /** Looks again at what is outside of the editor. */
  refresh() {
    this.editor.refresh()
    this.pinning.refresh()
  }

  /** Another picture has come. */
  pictured() {
    this.animation.forget()
    this.editor.refresh()
    this.paint()
  }

  // -- building -------------------------------------------------------------------------------------------------------
  build() {
    const { editor } = this
    this.names = /** @type {HTMLSelectElement} */ (element('select', 'name'))
    this.own = /** @type {HTMLInputElement} */ (element('input', 'name'))
    this.roles = /** @type {HTMLSelectElement} */ (element('select', 'role'))
    for (const [value, text] of ROLES) this.roles.append(new Option(text, value))
    describe(this.names, 'Name: one that the phrases bind')
    describe(this.own, 'Name of this instance')
    describe(this.roles, 'Role of this instance')
    this.names.addEventListener('change', () => this.named(/** @type {HTMLSelectElement} */ (this.names).value))
    this.own.addEventListener('change', () => this.named(/** @type {HTMLInputElement} */ (this.own).value))
    this.roles.addEventListener('change', () => this.named(this.name() ?? ''))
    this.buttons = {
      add: button('add', 'New instance: then drag a box on the picture', () => editor.select(null)),
      minus: button('minus', 'Clicks say where it is not (or click with Alt)', () => this.toggleMinus()),
      brush: button('brush', 'Paint the mask of this instance (B); Alt takes away, - and + change the size', () =>
        this.toggleBrush()
      ),
      key: button('key', 'Key frame here (K)', () => editor.pin()),
      off: button('off', 'Leaves here, or comes back (O)', () => editor.toggle()),
      drop: button('drop', 'Take the key of this frame away (Del); with Shift the whole instance', (event) =>
        event.shiftKey ? editor.discard() : editor.unpin()
      ),
      undo: button('undo', 'Undo (Ctrl+Z)', () => editor.undo()),
      redo: button('redo', 'Redo (Ctrl+Shift+Z)', () => editor.redo()),
      pins: button('pin', 'Pin points: a click lets the next run record where that place looks (P)', () =>
        this.pinning.toggle()
      ),
      grid: button('grid', 'The crop and the tokens that the model sees', () => this.toggleGrid()),
      play: button('play', 'Play: a rough preview (Space)', () => this.play()),
      large: button('large', 'Large view', () => this.enlarge(!this.large))
    }
    const { add, minus, brush, key, off, drop, undo, redo, pins, grid, play, large } = this.buttons
    this.size = /** @type {HTMLInputElement} */ (element('input', 'size'))
    Object.assign(this.size, { type: 'range', min: '0.5', max: '25', step: 'any' }) // percent of the shorter side
    describe(this.size, 'Size of the brush (- and +)')
    this.size.addEventListener('input', () => {
      editor.brushSize = Number(this.size?.value) / 100
      this.paint()
    })
    const bar = element('div', 'bar')
    const own = { boxes: [key], prompts: [brush, this.size, minus], masks: [this.size, minus] }[editor.kind.name]
    bar.append(this.names, this.own, this.roles, add, ...own, off, drop, undo, redo)
    this.told = element('div', 'told')
    this.told.setAttribute('role', 'status')
    const stage = element('div', 'stage')
    stage.append(this.stage.element, this.told)
    this.times = element('div', 'times')
    this.times.append(this.timeline.element)
    this.state = element('div', 'state')
    const foot = element('div', 'bar')
    foot.append(play, this.state, pins, grid, large)
    this.keys = /** @type {HTMLTextAreaElement} */ (element('textarea', 'keys'))
    describe(this.keys, 'Track editor: arrows move the box, Tab takes the next instance, Space plays')
    this.root.append(bar, stage, this.times, foot, this.keys)
    this.listen()
  }

  /** Keys, copy and paste come to a field of our own: the host leaves those of a text field alone. */
  listen() {
    const { root, editor } = this
    const keys = /** @type {HTMLTextAreaElement} */ (this.keys)
    const panel = {
      brush: () => this.toggleBrush(),
      pin: () => this.pinning.toggle(),
      play: () => this.play(),
      leave: () => (this.large ? this.enlarge(false) : keys.blur())
    }
    keys.addEventListener('keydown', (event) => {
      const ours = pressed(event, editor, panel)
      const control = event.ctrlKey || event.metaKey // the rest of these are the browser's and the host's
      if (ours || !control) event.stopPropagation()
      if (ours || (!control && event.key.length === 1)) event.preventDefault()
    })
    for (const type of ['keyup', 'keypress']) keys.addEventListener(type, (event) => event.stopPropagation())
    keys.addEventListener('input', () => {
      keys.value = ''
    })
    keys.addEventListener('copy', (event) => this.copied(event))
    keys.addEventListener('cut', (event) => {
      this.copied(event)
      editor.discard()
    })
    keys.addEventListener('paste', (event) => {
      event.preventDefault()
      event.stopPropagation()
      editor.paste(event.clipboardData?.getData('text/plain') ?? '')
    })
    // While it comes down: what is pressed may keep it to itself. The browser would take the focus elsewhere.
    const takeKeys = (/** @type {MouseEvent} */ event) => {
      if (event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) return
      event.preventDefault()
      keys.focus({ preventScroll: true })
    }
    root.addEventListener('pointerdown', (event) => event.stopPropagation())
    root.addEventListener('mousedown', takeKeys, { capture: true })
    for (const type of ['pointermove', 'pointerup', 'dblclick'])
      root.addEventListener(type, (event) => event.stopPropagation())
    for (const field of [this.own, this.names, this.roles, this.size]) {
      field?.addEventListener('keydown', (event) => event.stopPropagation())
    }
    root.addEventListener('wheel', (event) => this.wheel(event), { passive: false })
  }

  /** @param {ClipboardEvent} event */
  copied(event) {
    event.preventDefault()
    event.stopPropagation()
    event.clipboardData?.setData('text/plain', this.editor.copied())
  }

  /** With Shift the wheel goes through the frames. @param {WheelEvent} event */
  wheel(event) {
    if (!event.shiftKey) return
    event.preventDefault()
    event.stopPropagation()
    this.editor.seek(this.editor.frame + Math.sign(event.deltaY || event.deltaX))
  }

  // -- doing ----------------------------------------------------------------------------------------------------------
  name() {
    return this.editor.selected
  }

  /** A name or a role was chosen: of the instance, or of the next one. @param {string} name */
  named(name) {
    const { editor } = this
    const track = editor.track(editor.selected)
    if (!track) editor.wanted = name.trim()
    else if (name.trim()) editor.rename(track.name, { name: name.trim(), role: this.roles?.value || null })
    this.paint()
  }

  toggleMinus() {
    this.editor.minus = !this.editor.minus
    this.paint()
  }

  toggleBrush() {
    const { editor } = this
    if (editor.kind === BOXES || editor.kind === MASKS) return
    editor.brushing = !editor.brushing
    this.paint()
  }

  toggleGrid() {
    this.gridShown = !this.gridShown
    if (this.gridShown && !this.sight.grid()) {
      this.gridShown = false
      this.editor.say('Which tokens the model makes is known once the graph has run with it.')
    }
    this.paint()
  }

  play() {
    const { editor } = this
    editor.playing = !editor.playing
    if (editor.playing) {
      this.started = performance.now() - (editor.frame / editor.clip.fps) * 1000
    }
    this.paint()
  }

  /** @param {boolean} wanted */
  enlarge(wanted) {
    if (wanted === !!this.large) return
    if (wanted) {
      const large = element('div', 'matrix-editor-large')
      large.addEventListener('pointerdown', (event) => event.target === large && this.enlarge(false))
      this.element.replaceChildren(this.away)
      large.append(this.root)
      document.body.append(large)
      this.large = large
    } else {
      this.element.replaceChildren(this.root)
      this.large?.remove()
      this.large = null
    }
    this.keys?.focus({ preventScroll: true })
    this.paint()
  }

  /** Takes everything off the page that is not in the host's element. */
  remove() {
    this.editor.playing = false
    this.large?.remove()
  }

  // -- painting -------------------------------------------------------------------------------------------------------
  /** @param {number} time */
  painted(time) {
    const { editor } = this
    if (editor.playing) {
      const passed = (Math.max(0, time - (this.started ?? time)) / 1000) * editor.clip.fps
      editor.frame = Math.floor(passed) % editor.clip.frames
      this.paint()
    }
    this.sight.seek(editor.frame / editor.clip.fps)
    this.stand()
    const times = /** @type {HTMLElement} */ (this.times)
    const height = `${RULER + Math.max(editor.rows, LEAST_ROWS) * ROW + 2}px`
    if (this.timeline.element.style.height !== height) this.timeline.element.style.height = height
    if (times.style.minHeight === '') times.style.minHeight = `${RULER + ROW}px`
    this.stage.paint()
    this.timeline.paint()
    this.describe()
  }

  /** Nodes 2.0 lays elements out by themselves: what an editor needs it has to say in its style. */
  stand() {
    if (this.large) return
    const least = `${Math.round(this.heightFor(this.element.clientWidth || 290) - MARGINS)}px`
    if (this.element.style.minHeight !== least) this.element.style.minHeight = least
  }

  /** Puts words and buttons right. Nothing is written that is there already: that would cost a layout each frame. */
  describe() {
    const { editor, buttons } = this
    if (!buttons || !this.told || !this.state) return
    const track = editor.track(editor.selected)
    const said = editor.error?.message ?? (editor.note || this.hint())
    setText(this.told, said)
    this.told.classList.toggle('wrong', editor.error !== null)
    setText(this.state, this.where())
    const { locked, history } = editor
    const box = track && editor.seen(track).box
    setDisabled(buttons.add, locked)
    setDisabled(buttons.key, locked || !box)
    setDisabled(buttons.off, locked || !track)
    setDisabled(buttons.drop, locked || !track)
    setDisabled(buttons.undo, !history.past.length && !editor.timing)
    setDisabled(buttons.redo, !history.future.length)
    setHidden(buttons.pins, this.pinning.pins === null)
    setPressed(buttons.pins, this.pinning.on)
    setPressed(buttons.grid, this.gridShown)
    setPressed(buttons.minus, editor.minus)
    setPressed(buttons.brush, editor.brushing)
    if (this.size) {
      setHidden(this.size, !editor.brushing)
      const size = String(editor.brushSize * 100)
      if (this.size.value !== size) this.size.value = size
    }
    setPressed(buttons.play, editor.playing)
    this.fillNames()
  }

  fillNames() {
    const { editor, names, own, roles } = this
    if (!names || !own || !roles) return
    const track = editor.track(editor.selected)
    const choice = editor.bound.length > 0
    setHidden(names, !choice)
    setHidden(own, choice)
    const current = track?.name ?? editor.wanted
    const taken = editor.scene.tracks.map(({ name }) => nameKey(name))
    const bound = editor.bound.map(({ name }) => name)
    const key = JSON.stringify([current, taken, bound])
    if (names.dataset.key !== key) {
      names.dataset.key = key
      const free = (/** @type {string} */ name) => nameKey(name) === nameKey(current) || !taken.includes(nameKey(name))
      const known = bound.some((name) => nameKey(name) === nameKey(current))
      const first = known ? [] : [new Option(track ? `${current} (not bound)` : 'next free name', current)]
      const rest = bound.map((name) => new Option(name, nameKey(name) === nameKey(current) ? current : name))
      rest.forEach((option) => {
        option.disabled = !free(option.value)
      })
      names.replaceChildren(...first, ...rest)
      names.value = current
      own.value = current
      own.placeholder = editor.free()?.name ?? 'name'
    }
    const role = track?.role ?? ''
    if (roles.dataset.key !== `${current} ${role}`) {
      roles.dataset.key = `${current} ${role}`
      roles.value = role === 'instance' ? '' : role
    }
    setHidden(roles, !track)
    for (const field of [names, own, roles]) setDisabled(field, editor.locked)
  }

  hint() {
    const { editor } = this
    if (editor.host.connected()) return editor.host.instead ?? 'Boxes come over a link: these are not used.'
    const track = editor.track(editor.selected)
    if (track?.problem) return `${track.name}: ${track.problem}`
    if (editor.scene.tracks.length) return ''
    return {
      boxes: 'Drag a box around a thing. Go to another frame and drag it there: it moves.',
      prompts: 'Click on a thing, or drag a box around it. Alt+click says where it is not. B takes the brush.',
      masks: 'Paint over a thing. With Alt the brush takes away.'
    }[editor.kind.name]
  }

  where() {
    const { editor } = this
    const track = editor.track(editor.selected)
    const parts = [`frame ${editor.frame} of ${editor.clip.frames - 1}`]
    if (!track) return [...parts, `${editor.clip.width}\u00d7${editor.clip.height}`].join('   ')
    const { box, mask } = editor.seen(track)
    const keyed = track.keys.some(({ frame }) => frame === editor.frame)
    const there = mask ? 'painted' : box ? box.map((value) => Math.round(value)).join(' ') : 'not there'
    parts.push(keyed && (mask || box) ? `${there}  \u25c6` : there)
    const speed = editor.speed()
    if (speed !== null) parts.push(`${Math.round(speed)} px/s`)
    return parts.join('   ')
  }
}

/**
 * @param {string} tag
 * @param {string} name
 * @param {string} [text]
 */
function element(tag, name, text = '') {
  const made = document.createElement(tag)
  made.className = name
  made.textContent = text
  return made
}

/**
 * @param {string} name
 * @param {string} title
 * @param {(event: MouseEvent) => void} click
 */
function button(name, title, click) {
  const made = /** @type {HTMLButtonElement} */ (element('button', name))
  made.type = 'button'
  made.append(icon(name))
  describe(made, title)
  made.addEventListener('click', click)
  return made
}

/** @param {HTMLElement} element @param {string} title */
function describe(element, title) {
  element.title = title
  element.setAttribute('aria-label', title)
}

/** @param {HTMLElement} element @param {string} text */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/** @param {HTMLButtonElement | HTMLSelectElement | HTMLInputElement} element @param {boolean} value */
function setDisabled(element, value) {
  if (element.disabled !== value) element.disabled = value
}

/** @param {HTMLElement} element @param {boolean} value */
function setPressed(element, value) {
  if (element.getAttribute('aria-pressed') !== String(value)) element.setAttribute('aria-pressed', String(value))
}

/** @param {HTMLElement} element @param {boolean} value */
function setHidden(element, value) {
  const display = value ? 'none' : ''
  if (element.style.display !== display) element.style.display = display
}
