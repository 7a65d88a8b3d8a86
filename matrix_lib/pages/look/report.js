/**
 * The report of a judgement. Everything that people and models wrote becomes text nodes, never HTML.
 *
 * Films stand in the page as base64 and are decoded when they are looked at.
 */
import { at, made, themed, told } from './base.js'

/** @typedef {{mean: number | null, low: number | null, high: number | null}} Interval */
/** @typedef {{title: string, heads: string[], rows: (string | number | Interval)[][], note: string}} Table */
/** @typedef {{yes: boolean, frame: number | null, implausible: boolean}} Answer */
/** @typedef {{title: string, questions: string[], said: Record<string, Record<string, Answer> | null>}} Interaction */
/**
 * @typedef {object} Video
 * @property {string} model
 * @property {string} name
 * @property {string} type
 * @property {string} prompt
 * @property {Record<string, number | null>} values
 * @property {string[]} missing
 * @property {{called: string, colour: string}[]} instances
 * @property {{id: string, href: string, why: string}} film
 * @property {number} fps
 * @property {number} frames
 * @property {number[]} shown
 * @property {Interaction[]} interactions
 * @property {{who: string, frames: number[]}[]} gone
 * @property {{judge: string, frames: number[] | null}[]} fresh
 * @property {number} apart
 */
/**
 * @typedef {object} Data
 * @property {string} title
 * @property {[string, string][]} about
 * @property {Table[]} tables
 * @property {{title: string, lines: string[]}[]} missing
 * @property {Record<string, string>} measures
 * @property {Video[]} videos
 */

/** @type {Data} */
const data = JSON.parse(at('data').textContent ?? '{}')
const ORDERS = /** @type {Record<string, string>} */ ({
  worst: 'worst first (IF)',
  best: 'best first (IF)',
  apart: 'judges disagree most',
  name: 'name'
})
const KEPT = /** @type {Record<string, string>} */ ({
  all: 'all',
  no: 'with a no',
  implausible: 'not possible',
  apart: 'judges disagree',
  gone: 'somebody is gone',
  fresh: 'something is new',
  missing: 'something is missing'
})

const wanted = { order: 'worst', model: '', type: '', keep: 'all', words: '' }
/** @type {Video[]} */
let list = []
/** @type {Video | null} */
let shown = null
let held = '' // address of the film that is shown

/** @param {number | null | undefined} value */
function number(value) {
  return value === null || value === undefined ? 'not known' : value.toFixed(3)
}

// --- results

function results() {
  const about = made('dl', 'about')
  for (const [name, text] of data.about) about.append(made('div', '', made('dt', '', name), made('dd', '', text)))
  at('results').replaceChildren(
    made('section', 'card', about),
    ...data.missing.map(lacking),
    ...data.tables.map((one) => made('section', 'card', made('h2', '', one.title), grid(one), noted(one.note)))
  )
}

/** @param {{title: string, lines: string[]}} one */
function lacking(one) {
  const lines = made('ul', '', ...one.lines.map((line) => made('li', '', line)))
  return made('section', 'card missing', made('h2', '', one.title), lines)
}

/** @param {string} text */
function noted(text) {
  return made('p', 'note', text)
}

/** @param {Table} one */
function grid(one) {
  const head = made('tr', '', ...one.heads.map((name) => made('th', '', name)))
  const ranges = one.heads.map((_, n) => range(one.rows.map((row) => row[n])))
  const rows = one.rows.map((row) =>
    made('tr', '', ...row.map((cell, n) => made('td', '', ...cellOf(cell, ranges[n]))))
  )
  return made('div', 'scroll', made('table', '', made('thead', '', head), made('tbody', '', ...rows)))
}

/**
 * The ends of a column of intervals, 0 among them.
 * @param {(string | number | Interval)[]} cells
 * @returns {[number, number]}
 */
function range(cells) {
  const ends = cells.flatMap((cell) =>
    typeof cell === 'object' ? [cell.low ?? 0, cell.mean ?? 0, cell.high ?? 0] : []
  )
  return [Math.min(0, ...ends), Math.max(0, ...ends)]
}

/**
 * An interval as a line with its mean, and where 0 is.
 * @param {Interval} cell
 * @param {[number, number]} ends
 */
function drawn(cell, [least, most]) {
  const line = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  line.setAttribute('viewBox', '0 0 120 10')
  line.setAttribute('class', 'drawn')
  line.setAttribute('aria-hidden', 'true')
  const x = (/** @type {number} */ value) => 4 + (112 * (value - least)) / (most - least || 1)
  const [mean, low, high] = [cell.mean ?? 0, cell.low ?? cell.mean ?? 0, cell.high ?? cell.mean ?? 0]
  /** @type {[string, Record<string, string | number>][]} */
  const parts = [
    ['line', { x1: x(0), x2: x(0), y1: 0, y2: 10, class: 'zero' }],
    ['line', { x1: x(low), x2: x(high), y1: 5, y2: 5, class: 'span' }],
    ['circle', { cx: x(mean), cy: 5, r: 3 }]
  ]
  for (const [tag, facts] of parts) {
    const part = document.createElementNS('http://www.w3.org/2000/svg', tag)
    for (const [name, value] of Object.entries(facts)) part.setAttribute(name, String(value))
    line.append(part)
  }
  return line
}

/**
 * @param {string | number | Interval} cell
 * @param {[number, number]} ends
 */
function cellOf(cell, ends) {
  if (typeof cell !== 'object') return [String(cell)]
  if (cell.mean === null) return ['not known']
  if (cell.low === null) return [number(cell.mean)]
  return [
    number(cell.mean),
    ' ',
    made('span', 'spread', `[${number(cell.low)}, ${number(cell.high)}]`),
    drawn(cell, ends)
  ]
}

// --- which videos

function filters() {
  const models = [...new Set(data.videos.map((each) => each.model))]
  const types = [...new Set(data.videos.map((each) => each.type))].filter(Boolean)
  const parts = [select('order', 'order', ORDERS), select('keep', 'show', KEPT)]
  if (models.length > 1) parts.push(select('model', 'model', named(models)))
  if (types.length > 1) parts.push(select('type', 'kind', named(types)))
  const words = document.createElement('input')
  words.type = 'search'
  words.id = 'words'
  words.addEventListener('input', () => {
    wanted.words = words.value.toLowerCase()
    chosen()
  })
  parts.push(made('label', 'wide', 'search', words))
  at('filters').replaceChildren(...parts)
}

/** @param {string[]} names */
function named(names) {
  return { '': 'all', ...Object.fromEntries(names.map((name) => [name, name])) }
}

/**
 * @param {'order' | 'model' | 'type' | 'keep'} name
 * @param {string} label
 * @param {Record<string, string>} options
 */
function select(name, label, options) {
  const box = document.createElement('select')
  box.id = `by-${name}`
  for (const [value, text] of Object.entries(options)) box.append(new Option(text, value))
  box.value = wanted[name]
  box.addEventListener('change', () => {
    wanted[name] = box.value
    chosen()
    box.blur()
  })
  return made('label', '', label, box)
}

/** @param {Video} video */
function fits(video) {
  if (wanted.model && video.model !== wanted.model) return false
  if (wanted.type && video.type !== wanted.type) return false
  if (wanted.words && !`${video.name} ${video.prompt} ${video.model}`.toLowerCase().includes(wanted.words)) return false
  const answers = video.interactions.flatMap((each) =>
    Object.values(each.said).flatMap((one) => Object.values(one ?? {}))
  )
  if (wanted.keep === 'no') return answers.some((each) => !each.yes)
  if (wanted.keep === 'implausible') return answers.some((each) => each.implausible)
  if (wanted.keep === 'apart') return video.apart > 0
  if (wanted.keep === 'gone') return video.gone.length > 0
  if (wanted.keep === 'fresh') return video.fresh.some((each) => each.frames?.length)
  if (wanted.keep === 'missing') return video.missing.length > 0
  return true
}

/** What is not known comes first where the worst do, and last where the best do. @param {Video} video */
function worth(video) {
  return video.values.fidelity ?? -1
}

function chosen() {
  list = data.videos.filter(fits)
  if (wanted.order === 'worst') list.sort((a, b) => worth(a) - worth(b))
  if (wanted.order === 'best') list.sort((a, b) => worth(b) - worth(a))
  if (wanted.order === 'apart') list.sort((a, b) => b.apart - a.apart)
  if (wanted.order === 'name') list.sort((a, b) => a.name.localeCompare(b.name) || a.model.localeCompare(b.model))
  at('count').textContent = `${list.length} of ${data.videos.length} videos`
  at('list').replaceChildren(...list.map(entry))
  if (!shown || !list.includes(shown)) open(list[0] ?? null)
  else marked()
}

/** @param {Video} video */
function entry(video) {
  const value = video.values.fidelity
  const tone = value === null || value === undefined ? 'bad' : value >= 0.8 ? 'good' : value < 0.4 ? 'bad' : ''
  const said = value === null || value === undefined ? 'missing' : value.toFixed(2)
  const apart = video.apart ? `, judges differ ${video.apart}\u00d7` : ''
  const line = made(
    'li',
    '',
    made('span', 'prompt', video.prompt),
    made('span', `value ${tone}`, said),
    made('span', 'who', `${video.name} \u00b7 ${video.model}${apart}`)
  )
  line.setAttribute('role', 'option')
  line.onclick = () => open(video)
  return line
}

function marked() {
  const place = shown ? list.indexOf(shown) : -1
  const lines = [...at('list').children]
  for (const [n, line] of lines.entries()) line.setAttribute('aria-selected', String(n === place))
  lines[place]?.scrollIntoView({ block: 'nearest' })
}

// --- one video

/** @param {Video | null} video */
function open(video) {
  shown = video
  marked()
  const box = at('detail')
  if (!video) return box.replaceChildren(made('p', 'faint', 'No video is like that.'))
  const seen = made('section', 'seen', film(video), strip(video), facts(video))
  const asked = made('section', 'asked', ...video.interactions.map(interaction))
  const head = made('div', 'head', made('h2', '', video.prompt), made('p', 'faint', headline(video)))
  box.replaceChildren(head, seen, asked)
  box.scrollTop = 0
}

/** @param {Video} video */
function headline(video) {
  return [video.name, video.model, video.type, video.frames ? `${video.frames} frames` : '']
    .filter(Boolean)
    .join(' \u00b7 ')
}

/** @param {Video} video */
function film(video) {
  if (held) URL.revokeObjectURL(held)
  held = ''
  if (video.film.why) return made('p', 'bad', video.film.why)
  const screen = document.createElement('video')
  screen.controls = true
  screen.muted = true
  screen.loop = true
  screen.playsInline = true
  screen.preload = 'auto'
  if (video.film.id) {
    const text = atob(at(video.film.id).textContent ?? '')
    const bytes = Uint8Array.from(text, (sign) => sign.charCodeAt(0))
    held = URL.createObjectURL(new Blob([bytes], { type: 'video/mp4' }))
    screen.src = held
    return screen
  }
  screen.src = video.film.href
  const note = made('p', 'faint', `This film lies beside the page: ${decodeURIComponent(video.film.href)}`)
  screen.addEventListener('error', () => {
    note.className = 'bad'
  })
  return made('div', '', screen, note)
}

/** @param {number} frame */
function seek(frame) {
  const screen = document.querySelector('video')
  if (!screen || !shown) return
  screen.pause()
  screen.currentTime = (frame + 0.5) / shown.fps
  screen.scrollIntoView({ block: 'nearest' })
  for (const each of document.querySelectorAll('.frames button')) {
    each.classList.toggle('at', each.textContent === String(frame))
  }
}

/** The frames that were judged, with who is gone and what is new. @param {Video} video */
function strip(video) {
  const gone = new Set(video.gone.flatMap((each) => each.frames))
  const fresh = new Set(video.fresh.flatMap((each) => each.frames ?? []))
  return made(
    'div',
    'frames',
    ...video.shown.map((frame) => {
      const one = /** @type {HTMLButtonElement} */ (made('button', '', String(frame)))
      one.type = 'button'
      one.classList.toggle('gone', gone.has(frame))
      one.classList.toggle('new', fresh.has(frame))
      one.title = [
        `frame ${frame}`,
        gone.has(frame) ? 'somebody is gone' : '',
        fresh.has(frame) ? 'something is new' : ''
      ]
        .filter(Boolean)
        .join(', ')
      one.onclick = () => seek(frame)
      return one
    })
  )
}

/** @param {Video} video */
function facts(video) {
  const chips = made('div', 'chips')
  for (const [measure, head] of Object.entries(data.measures)) {
    chips.append(made('div', 'chip', made('b', '', number(video.values[measure])), made('span', '', head)))
  }
  const lines = made('ul', 'facts')
  for (const each of video.instances) lines.append(made('li', '', told(`${each.called} (${each.colour} box)`)))
  for (const each of video.gone) lines.append(made('li', 'bad', `${each.who} is gone in ${frames(each.frames)}`))
  for (const each of video.fresh) {
    const by = each.judge ? ` (${each.judge})` : ''
    const said =
      each.frames === null
        ? 'what is new is not known'
        : each.frames.length
          ? `something is new in ${frames(each.frames)}`
          : 'nothing is new'
    lines.append(made('li', each.frames?.length === 0 ? '' : 'bad', said + by))
  }
  for (const each of video.missing) lines.append(made('li', 'bad', `missing: ${each}`))
  return made('div', 'known', chips, lines)
}

/** @param {number[]} some */
function frames(some) {
  return `${some.length > 1 ? 'frames' : 'frame'} ${some.join(', ')}`
}

/** @param {Interaction} one */
function interaction(one) {
  const judges = Object.keys(one.said)
  const head = made(
    'tr',
    '',
    made('th', '', ''),
    made('th', '', 'question'),
    ...judges.map((each) => made('th', '', each))
  )
  const rows = one.questions.map((text, n) => {
    const q = String(n + 1)
    const cells = judges.map((judge) => made('td', '', cell(one.said[judge]?.[q])))
    const said = new Set(judges.flatMap((judge) => (one.said[judge]?.[q] ? [one.said[judge]?.[q].yes] : [])))
    return made('tr', said.size > 1 ? 'apart' : '', made('td', '', q), made('td', '', told(text)), ...cells)
  })
  const table = made('table', 'told', made('thead', '', head), made('tbody', '', ...rows))
  return made('section', 'card', made('h3', '', told(one.title)), made('div', 'scroll', table))
}

/** @param {Answer | undefined} answer */
function cell(answer) {
  if (!answer) return made('span', 'faint', 'missing')
  const word = answer.implausible ? 'not possible' : answer.yes ? 'yes' : 'no'
  const frame = answer.frame
  if (frame === null) return made('span', answer.yes ? 'good' : 'bad', word)
  const one = /** @type {HTMLButtonElement} */ (made('button', answer.yes ? 'good' : 'bad', `${word} \u00b7 ${frame}`))
  one.type = 'button'
  one.title = `shows frame ${frame}`
  one.onclick = () => seek(frame)
  return one
}

// --- keys

/** @param {number} by */
function moved(by) {
  const place = shown ? list.indexOf(shown) : -1
  const there = list[Math.max(0, Math.min(list.length - 1, place + by))]
  if (there && there !== shown) open(there)
}

function played() {
  const screen = document.querySelector('video')
  if (screen) screen.paused ? screen.play().catch(() => {}) : screen.pause()
}

/** @param {boolean} results_ */
function turn(results_) {
  at('results').hidden = !results_
  at('videos').hidden = results_
  at('to-results').setAttribute('aria-pressed', String(results_))
  at('to-videos').setAttribute('aria-pressed', String(!results_))
  if (!results_) marked()
}

/** @param {KeyboardEvent} event */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return
  if (event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) {
    if (event.key === 'Escape') event.target.blur()
    return
  }
  /** @type {Record<string, () => void>} */
  const acts = { r: () => turn(true), v: () => turn(false), t: themed }
  if (!at('videos').hidden) {
    Object.assign(acts, { j: () => moved(1), ArrowDown: () => moved(1), k: () => moved(-1), ArrowUp: () => moved(-1) })
    Object.assign(acts, { ' ': played, '/': () => at('words').focus() })
  }
  const act = acts[event.key]
  if (!act) return
  event.preventDefault()
  act()
}

at('name').textContent = data.title
document.addEventListener('keydown', pressed)
at('to-results').onclick = () => turn(true)
at('to-videos').onclick = () => turn(false)
at('theme').onclick = themed
results()
filters()
chosen()
turn(true)
