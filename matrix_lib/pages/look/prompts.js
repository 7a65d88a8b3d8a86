/**
 * Boxes and points of a card, in the track editor that ComfyUI's nodes have. `Enter` keeps the text, `Escape` leaves it.
 *
 * The editor takes what is pressed in it to itself, so these two are caught before it sees them.
 */
import { made } from './base.js'
import { PROMPTS } from './js/editor/grammar.js'
import { Panel } from './js/editor/panel.js'

/**
 * @typedef {object} Scene
 * @property {string} text
 * @property {string[]} names
 * @property {{width: number, height: number, frames: number, fps: number}} clip
 * @property {string} media what stands before the number of a frame
 */

const AHEAD = 2 // frames that are asked for before they are looked at

export class Prompts {
  /**
   * @param {Scene} scene
   * @param {() => void} keep
   * @param {() => void} leave
   */
  constructor(scene, keep, leave) {
    this.scene = scene
    this.text = scene.text
    /** @type {Map<number, HTMLImageElement>} */
    this.pictures = new Map()
    const names = scene.names.map((name) => ({ name, role: 'instance', time: null }))
    this.panel = new Panel(
      {
        read: () => this.text,
        write: (text) => {
          this.text = text
        },
        clip: () => ({ ...scene.clip, hold: true }),
        names: () => /** @type {any} */ (names),
        connected: () => false
      },
      PROMPTS,
      { picture: (...to) => this.draw(...to), seek: () => {}, grid: () => null }
    )
    for (const one of [this.panel.buttons?.grid, this.panel.buttons?.large]) one?.style.setProperty('display', 'none')
    this.seek(this.panel.editor.scene.tracks[0]?.keys[0]?.frame ?? 0)
    this.element = made('div', 'prompts', this.panel.element)
    this.element.addEventListener(
      'keydown',
      (event) => {
        const act = event.key === 'Enter' ? keep : event.key === 'Escape' ? leave : null
        if (!act) return
        event.preventDefault()
        event.stopPropagation()
        act()
      },
      { capture: true }
    )
  }

  /** Its keys work from now on. */
  focus() {
    this.panel.keys?.focus({ preventScroll: true })
  }

  /** @param {number} frame */
  seek(frame) {
    this.panel.editor.seek(frame)
  }

  remove() {
    this.panel.remove()
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} frame
   * @param {number} x
   * @param {number} y
   * @param {number} width
   * @param {number} height
   */
  draw(context, frame, x, y, width, height) {
    for (let n = frame; n <= Math.min(frame + AHEAD, this.scene.clip.frames - 1); n += 1) this.wanted(n)
    const shown = this.pictures.get(frame)
    if (!shown?.complete || !shown.naturalWidth) return false
    context.drawImage(shown, x, y, width, height)
    return true
  }

  /** @param {number} frame */
  wanted(frame) {
    if (this.pictures.has(frame)) return
    const picture = document.createElement('img')
    picture.addEventListener('load', () => this.panel.pictured())
    picture.src = `media/${this.scene.media}${frame}`
    this.pictures.set(frame, picture)
  }
}
