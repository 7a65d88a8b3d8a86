/**
 * The viewer: words, picture, chart and tools around one choice. What is chosen is drawn as soon as its maps are here, and
 * told to whoever mounted it.
 */
import { LayerChart } from './chart.js'
import { choiceOf, clicked, fieldsOf, heldBy, kindsOf, wantedOf, withKind } from './choice.js'
import { keyHelp, pressed } from './keys.js'
import { css, download, make, segments } from './parts.js'
import { barColours, captionOf, counted, differenceScene, momentOf, placesOfNames, sceneOf } from './picture.js'
import { instancesAt, placeCard } from './place.js'
import { readingCard } from './reading.js'
import { compose, pngOf, videoOf } from './save.js'
import { skeleton } from './skeleton.js'
import { bytesOf } from './source.js'
import { Stage } from './stage.js'
import { rangesText } from './text.js'
import { toolRow } from './tools.js'
import { wordChips } from './words.js'

/** @typedef {import('./choice.js').Choice} Choice */
/** @typedef {import('./choice.js').Fields} Fields */
/** @typedef {import('./exhibit.js').Exhibit} Exhibit */
/** @typedef {import('./picture.js').Scene} Scene */
/** @typedef {import('./place.js').Token} Token */

/**
 * Another capture to compare with.
 * @typedef {{label: string, open: () => Promise<Exhibit>}} Other
 */

/**
 * @typedef {object} Options
 * @property {Fields} [fields] what to look at first
 * @property {(fields: Fields) => void} [changed] told after the person chose something
 * @property {() => Other[]} [others] captures to compare with, asked when the menu opens
 * @property {(place: {x: number, y: number, frame: number}) => string} [pin] lets the next run record where a place of the
 *   clip looks (in pixels); says what was done
 * @property {boolean} [large] on a page of its own
 * @property {boolean} [reads] begins with what is read off the maps
 */

const KINDS = /** @type {Record<string, string>} */ ({ v2t: 'Words', v2v: 'Instances', t2v: 'Words look' })
const KIND_TIPS = /** @type {Record<string, string>} */ ({
  v2t: 'How much each place of the video looks at the words (K)',
  v2v: 'Where the first-frame tokens of an instance, or a pinned point, look in the whole clip (K)',
  t2v: 'Where the words look in the clip: the other way round (K)'
})
const AT_ONCE = 16 // maps that one question may ask for
const BEFORE_OTHERS = 3 // with more words than that, the first map is asked for by itself: it is there sooner

export class Viewer {
  /**
   * @param {Exhibit} exhibit
   * @param {Options} [options]
   */
  constructor(exhibit, options = {}) {
    this.exhibit = exhibit
    this.options = options
    const { choice, notes } = choiceOf(exhibit.manifest, options.fields ?? {})
    /** @type {Choice} */
    this.choice = choice
    this.notes = notes
    /** @type {string | null} */
    this.hovered = null
    /** @type {Token | null} */
    this.pin = null
    /** @type {Exhibit | null} */
    this.other = null
    this.otherLabel = ''
    /** Whether masks and findings are shown that were read off the maps. */
    this.reads = Boolean(options.reads)
    this.playing = 0
    this.loading = false
    this.again = false
    /** @type {Map<string, import('./exhibit.js').Chart>} */
    this.charts = new Map()
    /** @type {(token: Token | null, double: boolean, x: number) => void} */
    const clickedPlace = (token, double, x) => this.clickedPlace(token, double, x)
    this.stage = new Stage(clickedPlace)
    this.second = new Stage(clickedPlace)
    this.second.element.hidden = true
    this.card = make('div', { class: 'card' })
    this.card.hidden = true
    this.findings = make('div', { class: 'card away findings' })
    this.findings.hidden = true
    this.stage.element.append(this.card, this.findings)
    this.chart = new LayerChart((drag, more) => this.dragged(drag, more))
    this.help = keyHelp()
    const stages = [this.stage.element, this.second.element]
    const inside = { stages, chart: this.chart.element, told: this.chart.told }
    this.parts = skeleton({ ...inside, help: this.help }, Boolean(options.large))
    this.element = this.parts.element
    this.listen()
    this.layout()
    this.refresh()
  }

  get manifest() {
    return this.exhibit.manifest
  }

  get stream() {
    return this.manifest.streams[this.choice.stream]
  }

  get held() {
    return heldBy(this.manifest, this.choice)
  }

  /** The words on the picture: the one under the pointer, or those that are chosen. */
  get names() {
    return this.hovered === null ? this.choice.names : [this.hovered]
  }

  get shownExhibits() {
    return this.other && this.choice.compare !== 'off' ? [this.exhibit, this.other] : [this.exhibit]
  }

  /** What each capture is called. */
  get labels() {
    return [this.manifest.label || 'this run', this.otherLabel]
  }

  listen() {
    const { element, play, slider, everything } = this.parts
    element.addEventListener('keydown', (event) => pressed(this, event))
    play.addEventListener('click', () => this.toggle())
    slider.addEventListener('input', () => this.seek(+slider.value))
    everything.addEventListener('click', () => this.everything())
    this.sizes = new ResizeObserver(() => this.resized())
    for (const each of [this.stage, this.second, this.chart]) this.sizes.observe(each.element)
  }

  /** What depends on the stream and the kind: chips, the switch, the tools. */
  layout() {
    this.chips = wordChips(this.stream, this.held, {
      over: (name) => this.hover(name),
      click: (name, more) => this.set({ names: clicked(this.choice.names, name, more, this.held.entities) }),
      all: () => this.set({ names: this.held.entities })
    })
    this.parts.words.replaceChildren(this.chips.element)
    const kinds = kindsOf(this.manifest, this.choice.stream)
    const options = kinds.map((kind) => ({ value: kind, text: KINDS[kind] ?? kind, title: KIND_TIPS[kind] }))
    const { element, show } = segments('What is shown', options, (kind) => this.setKind(kind))
    show(this.choice.kind)
    this.parts.kinds.replaceChildren(element)
    this.parts.slider.min = '0'
    this.parts.slider.max = `${this.stream.pictures.length - 1}`
    this.tools = toolRow(this)
    this.parts.tools.replaceChildren(...this.tools.parts)
  }

  // ---- what is chosen

  /**
   * @param {Partial<Choice>} change
   * @param {boolean} [told] whether others are to know
   */
  set(change, told = true) {
    this.choice = { ...this.choice, ...change }
    this.notes = []
    this.refresh()
    if (told) this.options.changed?.(fieldsOf(this.manifest, this.choice))
  }

  /**
   * Takes what was chosen elsewhere, and tells nobody.
   * @param {Fields} fields
   */
  take(fields) {
    const before = this.choice
    const { choice, notes } = choiceOf(this.manifest, { ...fieldsOf(this.manifest, before), ...fields })
    const { picture, outlines, compare } = before
    this.choice = { ...choice, picture, outlines, compare }
    this.notes = notes
    if (choice.kind !== before.kind || choice.stream !== before.stream) this.layout()
    this.refresh()
  }

  /**
   * Goes on with a later state of the same run. What was everything is everything again.
   * @param {Exhibit} exhibit
   */
  swap(exhibit) {
    const fields = fieldsOf(this.manifest, this.choice)
    const { picture, outlines } = this.choice
    exhibit.leaveSinksOut(this.exhibit.sinkless)
    this.exhibit.close()
    this.exhibit = exhibit
    this.charts = new Map()
    const { choice, notes } = choiceOf(exhibit.manifest, fields)
    this.choice = choice
    this.choice = { ...choice, picture: Math.min(picture, this.stream.pictures.length - 1), outlines }
    this.notes = notes
    this.layout()
    this.refresh()
  }

  /**
   * @param {string} kind
   * @param {string[]} [names]
   */
  setKind(kind, names) {
    this.choice = withKind(this.manifest, this.choice, kind, names)
    this.hovered = null
    this.layout()
    this.set({})
  }

  /** @param {number} stream */
  setStream(stream) {
    const { choice } = choiceOf(this.manifest, { ...fieldsOf(this.manifest, this.choice), stream })
    this.choice = { ...choice, compare: this.choice.compare, outlines: this.choice.outlines }
    this.hovered = null
    this.layout()
    this.set({})
  }

  everything() {
    this.set({ layers: this.held.layers, steps: this.exhibit.steps })
  }

  /** @param {string | null} name */
  hover(name) {
    if (this.hovered === name) return
    this.hovered = name
    this.refresh()
  }

  /**
   * @param {import('./chart.js').Drag} drag
   * @param {boolean} more adds to what is chosen
   */
  dragged({ layers, steps }, more) {
    /** @type {(existing: number[], chosen: number[], span: [number, number] | null) => number[]} */
    const taken = (existing, chosen, span) => {
      if (!span) return chosen
      const found = existing.slice(span[0], span[1] + 1)
      return more ? existing.filter((each) => found.includes(each) || chosen.includes(each)) : found
    }
    const change = {
      layers: taken(this.held.layers, this.choice.layers, layers),
      steps: taken(this.exhibit.steps, this.choice.steps, steps)
    }
    const same = rangesText(change.layers) === rangesText(this.choice.layers)
    if (!same || rangesText(change.steps) !== rangesText(this.choice.steps)) this.set(change)
  }

  /**
   * @param {'off' | 'side' | 'difference'} how
   * @param {Other | null} other
   */
  async compare(how, other) {
    this.other = null
    try {
      if (other && how !== 'off') this.other = await other.open()
      this.other?.leaveSinksOut(this.exhibit.sinkless)
      this.otherLabel = other?.label ?? ''
    } catch (error) {
      this.wrong(error)
      how = 'off'
    }
    this.second.element.hidden = how !== 'side'
    this.set({ compare: how }, false)
  }

  // ---- the clip

  /** @param {number} picture */
  seek(picture) {
    this.choice.picture = picture
    this.draw()
    this.fetchFrames()
  }

  toggle() {
    if (this.playing) return this.stop()
    let last = performance.now()
    const each = 1000 / this.rate
    /** @param {number} now */
    const tick = (now) => {
      if (!this.element.isConnected) return this.stop()
      if (now - last >= each) {
        last = now - ((now - last) % each)
        this.seek((this.choice.picture + 1) % this.stream.pictures.length)
      }
      this.playing = requestAnimationFrame(tick)
    }
    this.playing = requestAnimationFrame(tick)
    this.showTime()
  }

  stop() {
    cancelAnimationFrame(this.playing)
    this.playing = 0
    this.showTime()
  }

  /** Pictures a second: of the clip, or two token frames a second where there is none. */
  get rate() {
    return this.manifest.film.frames > 1 ? this.manifest.film.fps : 2
  }

  async fetchFrames() {
    const missing = this.shownExhibits.filter((exhibit) => {
      const [frame] = momentOf(exhibit, this.choice)
      return exhibit.manifest.film.frames && !exhibit.readyBitmap(frame)
    })
    if (!missing.length) return
    try {
      await Promise.all(missing.map((exhibit) => exhibit.bitmap(momentOf(exhibit, this.choice)[0])))
      this.draw()
    } catch (error) {
      this.wrong(error)
    }
  }

  // ---- maps

  refresh() {
    this.chips?.show(this.names)
    this.tools?.show()
    this.draw()
    this.showChart()
    this.load()
  }

  /** Fetches what is missing; one question after the other, and always for the latest choice. */
  async load() {
    this.again = true
    if (this.loading) return
    this.loading = true
    const busy = setTimeout(() => this.stage.element.classList.add('busy'), 150)
    try {
      this.fetchFrames()
      while (this.again) {
        this.again = false
        for (const exhibit of this.shownExhibits) await this.loadFrom(exhibit)
      }
      this.say([...this.notes, ...this.manifest.notes])
    } catch (error) {
      this.wrong(error)
    } finally {
      clearTimeout(busy)
      this.stage.element.classList.remove('busy')
      this.loading = false
    }
    this.loadCharts()
  }

  /** @param {Exhibit} exhibit */
  async loadFrom(exhibit) {
    const wanted = wantedOf(exhibit.manifest, this.choice)
    const entities = placesOfNames(exhibit, this.choice, this.pin ? this.held.entities : this.names)
    if (!wanted || !entities.length) return
    if (entities.length > BEFORE_OTHERS && !this.charts.size) {
      await exhibit.fetchMaps(wanted, entities.slice(0, 1))
      this.draw()
    }
    for (let i = 0; i < entities.length; i += AT_ONCE) {
      await exhibit.fetchMaps(wanted, entities.slice(i, i + AT_ONCE))
    }
    this.draw()
    if (!this.reads) return
    await exhibit.fetchReading(wanted)
    this.draw()
  }

  /** The chart's scores of the words that are shown, after their maps. */
  async loadCharts() {
    const { stream, kind, head } = this.choice
    const { exhibit } = this
    const { sinkless } = exhibit
    for (const entity of placesOfNames(exhibit, this.choice, this.names)) {
      const key = `${stream} ${kind} ${entity} ${head}`
      if (this.charts.has(key)) continue
      try {
        const chart = await exhibit.chart(stream, kind, entity, head)
        if (exhibit !== this.exhibit || sinkless !== exhibit.sinkless) return
        this.charts.set(key, chart)
      } catch (error) {
        this.wrong(error)
        return
      }
      this.showChart()
    }
  }

  /** @param {string[]} notes */
  say(notes) {
    this.parts.status.classList.remove('wrong')
    this.parts.status.textContent = notes.join(' · ')
    this.parts.status.title = notes.join('\n')
  }

  /** @param {unknown} error */
  wrong(error) {
    this.say([error instanceof Error ? error.message : String(error)])
    this.parts.status.classList.add('wrong')
  }

  // ---- drawing

  /** @returns {Scene[]} */
  scenes() {
    const [first, second] = this.shownExhibits.map((exhibit) => {
      const [frame] = momentOf(exhibit, this.choice)
      return { exhibit, bitmap: exhibit.readyBitmap(frame) ?? exhibit.lastBitmap ?? null }
    })
    if (second && this.choice.compare === 'difference') {
      return [differenceScene(first.exhibit, second.exhibit, this.choice, this.names[0], first.bitmap)]
    }
    return [first, second]
      .filter((pane) => pane !== undefined)
      .map(({ exhibit, bitmap }) => sceneOf(exhibit, this.choice, this.names, this.pin, bitmap, this.reads))
  }

  draw() {
    const scenes = this.scenes()
    const captions = this.captions()
    const ready = scenes[0].picture.heats.length > 0 || scenes[0].missing !== ''
    for (const [i, stage] of [this.stage, this.second].entries()) {
      const scene = scenes[i]
      if (!scene) continue
      stage.told.textContent = scene.missing || captions[i]
      // Until the maps of a new choice are here the old heat stays: nothing flickers.
      const waits = !scene.picture.heats.length && !scene.missing
      const heats = (waits && stage.picture?.heats) || scene.picture.heats
      stage.show({ ...scene.picture, heats })
    }
    if (ready) this.showLegend(scenes)
    this.showTime()
    this.card.hidden = !this.pin
    if (this.pin) this.card.replaceChildren(...placeCard(this, this.pin))
    this.showFindings()
    // For whoever waits for the first picture, a test or a benchmark.
    if (ready) this.element.dataset.drawn = captions[0]
  }

  captions() {
    const captions = this.shownExhibits.map((exhibit) => captionOf(exhibit, this.choice))
    if (captions.length === 1) return captions
    const [own, other] = this.labels
    return this.choice.compare === 'difference'
      ? [`${own} minus ${other} · ${captions[0]}`]
      : captions.map((caption, i) => `${this.labels[i]} · ${caption}`)
  }

  /** @param {Scene[]} scenes */
  showLegend(scenes) {
    const rows = scenes.flatMap((scene, i) =>
      scene.rows.map((row) => ({ row, name: scenes.length > 1 ? `${row.name} (${this.labels[i]})` : row.name }))
    )
    const title = 'Share of attention, in percent: the scale leaves out the most extreme values'
    this.parts.legend.replaceChildren(
      ...rows.map(({ row, name }) => {
        const dot = make('span', { class: 'dot' })
        dot.style.background = css(row.colour)
        const bar = make('span', { class: 'bar' })
        bar.style.background = `linear-gradient(to right, ${barColours(row.colours, 12).join(', ')})`
        return make('div', { class: 'row', title }, [
          dot,
          make('span', { class: 'name', text: name }),
          make('span', { class: 'end', text: row.low }),
          bar,
          make('span', { class: 'end', text: row.high })
        ])
      })
    )
  }

  showTime() {
    const { time, slider, play } = this.parts
    const [frame, token] = momentOf(this.exhibit, this.choice)
    const { frames } = this.manifest.film
    const tokens = `tokens ${token + 1} of ${this.stream.grid[0]}`
    time.textContent = frames > 1 ? `frame ${frame + 1} of ${frames} · ${tokens}` : tokens
    slider.value = `${this.choice.picture}`
    play.textContent = this.playing ? '❚❚' : '▶'
  }

  showChart() {
    const { stream, kind, layers, steps, head } = this.choice
    const charts = placesOfNames(this.exhibit, this.choice, this.names).flatMap((entity) => {
      const chart = this.charts.get(`${stream} ${kind} ${entity} ${head}`)
      return chart ? [{ name: this.held.entities[entity], colour: css(this.held.colours[entity]), chart }] : []
    })
    this.chart.show({
      layers: this.held.layers,
      steps: this.exhibit.steps,
      sigmas: this.manifest.steps.map((step) => step.sigma),
      chosen: { layers, steps },
      charts,
      table: bytesOf(Object.values(this.manifest.colormaps)[0])
    })
    const { chosen } = this.parts
    const layerText = layers.length === this.held.layers.length ? 'all layers' : counted('layer', layers)
    const stepText = steps.length === this.exhibit.steps.length ? 'all steps' : counted('step', steps)
    chosen.textContent = `${layerText}, ${stepText}`
    chosen.title = chosen.textContent
  }

  resized() {
    this.stage.draw()
    this.second.draw()
    this.chart.draw()
  }

  // ---- a place of the clip

  /**
   * @param {Token | null} token
   * @param {boolean} double
   * @param {number} x where on the picture, 0 to 1
   */
  clickedPlace(token, double, x) {
    this.card.classList.toggle('away', x > 0.5)
    const [instance] = token && double ? instancesAt(this, token) : []
    if (instance) this.lookFrom(instance)
    else this.setPin(token)
  }

  /** @param {Token | null} token */
  setPin(token) {
    this.pin = token
    this.refresh()
  }

  /** @param {string} name of an instance, or of a pinned point: then in its frame */
  lookFrom(name) {
    const point = this.stream.maps.v2v?.points[name]
    const picture = point ? this.stream.pictures.findIndex(([, token]) => token === point[0]) : -1
    if (picture >= 0) this.choice.picture = picture
    this.pin = null
    this.setKind('v2v', [name])
  }

  /**
   * Lets the next run record where a place looks.
   * @param {Token} token
   */
  pinPlace({ row, column }) {
    const { token: size, frame: whole, starts } = this.stream
    const [x, y] = [column, row].map((at, i) => Math.min((at + 0.5) * size[i], whole[i]))
    const [, frame] = momentOf(this.exhibit, this.choice)
    try {
      this.say([this.options.pin?.({ x, y, frame: starts[frame] }) ?? ''])
    } catch (error) {
      this.wrong(error)
    }
  }

  // ---- what is read off the maps

  /** @param {boolean} on */
  read(on) {
    this.reads = on
    this.refresh()
  }

  /** @param {boolean} out whether attention sinks are left out of scores and of what is read */
  leaveSinksOut(out) {
    this.exhibit.leaveSinksOut(out)
    this.other?.leaveSinksOut(out)
    this.charts.clear()
    this.refresh()
  }

  showFindings() {
    const wanted = this.reads ? wantedOf(this.manifest, this.choice) : null
    const reading = wanted && this.exhibit.reading(wanted)
    this.findings.hidden = !reading || Boolean(this.pin)
    if (reading && !this.findings.hidden) this.findings.replaceChildren(...readingCard(this, reading))
  }

  /**
   * Goes to where a finding holds: its first frame, and its steps.
   * @param {import('./source.js').Reading['findings'][number]} finding
   */
  lookAt({ frames, steps }) {
    const picture = this.stream.pictures.findIndex(([, token]) => token === frames[0])
    if (picture >= 0) this.choice.picture = picture
    this.set({ steps: this.exhibit.steps.filter((step) => steps.includes(step)) })
  }

  showHelp() {
    this.help.hidden = !this.help.hidden
  }

  escape() {
    if (!this.help.hidden) this.help.hidden = true
    else if (this.pin) this.setPin(null)
    else this.read(false)
  }

  // ---- files

  async savePicture() {
    const canvas = document.createElement('canvas')
    compose(canvas, this.panes())
    download(await pngOf(canvas), `attention_${this.fileName()}.png`)
  }

  async saveVideo() {
    this.stop()
    const before = this.choice.picture
    this.say(['recording the video ...'])
    try {
      const blob = await videoOf(this.stream.pictures.length, this.rate, async (canvas, picture) => {
        this.choice.picture = picture
        await this.fetchFrames()
        this.draw()
        compose(canvas, this.panes())
      })
      download(blob, `attention_${this.fileName()}.webm`)
      this.say([])
    } catch (error) {
      this.wrong(error)
    }
    this.seek(before)
  }

  async savePage() {
    this.say(['making the page ...'])
    try {
      const page = await this.exhibit.source.page?.()
      if (page) download(page, 'attention.html')
      this.say([])
    } catch (error) {
      this.wrong(error)
    }
  }

  panes() {
    const captions = this.captions()
    return this.scenes().map((scene, i) => ({ scene, caption: captions[i] }))
  }

  fileName() {
    const name = this.names.join('_').replace(/[^\p{L}\p{N}]+/gu, '_')
    return name.slice(0, 60) || 'map'
  }

  /** Lets go of everything; the element is the mount's to remove. */
  close() {
    this.stop()
    this.sizes?.disconnect()
    this.exhibit.close()
    this.other?.close()
  }
}
