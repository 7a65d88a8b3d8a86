/**
 * One thing at a time, by keyboard. What the server sends is data; only text nodes are made of it, never HTML.
 *
 * An answer counts once the server has said that it is kept: until then the page waits, and says so where it fails.
 */
import { at, made, themed, told } from './base.js'

/** @typedef {{value: string, label: string, keys: string[], onFrame: boolean, tone: string}} Choice */
/**
 * @typedef {object} Question
 * @property {string} id
 * @property {string} text
 * @property {string} kind
 * @property {string} group
 * @property {boolean} optional
 * @property {[string, string] | null} when
 * @property {Choice[]} choices
 */
/** @typedef {{value: string | number[], frame: number | null}} Mark */
/** @typedef {{id: string, title: string, done: boolean}} Entry */
/**
 * @typedef {object} Card
 * @property {string} id
 * @property {string} title
 * @property {string} text
 * @property {{media: string, index: number}[]} frames
 * @property {{media: string, label: string}[]} clips
 * @property {import('./prompts.js').Scene | null} scene
 * @property {Question[]} questions
 * @property {Record<string, Mark>} marks
 */
/** busy: cards that come again once something is made for them. */
/** @typedef {{title: string, by: string, task: string[], cards: Entry[], busy?: number}} State */

const EVERY = 1000 // milliseconds between two looks at what is being made

const NAMES = /** @type {Record<string, string>} */ ({
  ArrowLeft: '\u2190',
  ArrowRight: '\u2192',
  ArrowUp: '\u2191',
  ArrowDown: '\u2193'
})

/** @type {State} */
let state = { title: '', by: '', task: [], cards: [] }
/** @type {Card | null} */
let card = null
let place = -1 // of the card in state.cards
let active = 0 // question
let frame = 0 // place in card.frames
let clip = -1 // place in card.clips, -1 where frames are shown
let turn = Promise.resolve() // what was pressed is done one after the other
let waiting = 0 // how much is still to be done
let failed = 0 // answers that were not kept: what was pressed behind one is dropped
/** @type {Set<number>} frames chosen for the active question, before they are kept */
let chosen = new Set()
/** @type {number[]} cards that were looked at, to go back to */
const past = []
/** @type {import('./prompts.js').Prompts | null} */
let editor = null

/** @param {string} key */
function keyed(key) {
  return made('kbd', '', NAMES[key] ?? key)
}

/**
 * @param {string} text
 * @param {(() => void) | null} again
 */
function trouble(text, again = null) {
  const box = at('trouble')
  box.replaceChildren(text)
  box.hidden = !text
  if (again) {
    const button = /** @type {HTMLButtonElement} */ (made('button', '', 'Try again'))
    button.type = 'button'
    button.onclick = again
    box.append(button)
  }
}

/**
 * @param {string} address
 * @param {object} [body]
 */
async function asked(address, body) {
  const sent = body
    ? { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }
    : {}
  let reply
  try {
    reply = await fetch(address, sent)
  } catch {
    throw new Error('the server does not answer. Start the command again, and open the address that it prints')
  }
  const content = await reply.json().catch(() => ({}))
  if (!reply.ok) throw new Error(content.error ?? `the server says ${reply.status}`)
  return content
}

async function begin() {
  try {
    state = await asked('state')
  } catch (error) {
    return trouble(said(error), begin)
  }
  trouble('')
  document.title = state.title
  at('title').textContent = state.title
  at('by').textContent = state.by
  at('guide-title').textContent = state.title
  at('task').replaceChildren(...state.task.map((line) => made('li', '', line)))
  await open(nextOpen(-1))
  if (card && !state.cards.some((each) => each.done)) guide()
}

/** @param {unknown} error */
function said(error) {
  return error instanceof Error ? error.message : String(error)
}

/**
 * The next card that is not done, round the end; -1 where all are.
 * @param {number} from
 */
function nextOpen(from) {
  const count = state.cards.length
  for (let step = 1; step <= count; step++) {
    const there = (from + step + count) % count
    if (!state.cards[there].done) return there
  }
  return -1
}

/**
 * @param {number} there place of a card; -1 shows that all are done
 * @param {boolean} [last] begin at its last question
 */
async function open(there, last = false) {
  if (there < 0) {
    card = null
    place = -1
    return ended()
  }
  try {
    card = /** @type {Card} */ (await asked(`card/${encodeURIComponent(state.cards[there].id)}`))
  } catch (error) {
    return trouble(said(error), () => open(there, last))
  }
  trouble('')
  place = there
  frame = 0
  clip = card.frames.length ? -1 : 0
  const marks = card.marks
  const first = card.questions.findIndex((each) => counts(each) && !(each.id in marks) && !each.optional)
  active = last ? card.questions.findLastIndex(counts) : Math.max(0, first)
  at('view').dataset.shown = ''
  at('card-title').textContent = card.title
  at('card-text').replaceChildren(told(card.text))
  begun()
  stage()
  panel()
}

/**
 * Whether a question is asked, as things stand.
 * @param {Question} question
 */
function counts(question) {
  return !question.when || card?.marks[question.when[0]]?.value === question.when[1]
}

/** The active question is begun: what was chosen for it before is taken up. */
function begun() {
  const question = card?.questions[active]
  const kept = question && card?.marks[question.id]
  chosen = new Set(Array.isArray(kept?.value) ? kept.value : [])
}

function counted() {
  const done = state.cards.filter((each) => each.done).length
  const bar = /** @type {HTMLProgressElement} */ (at('bar'))
  bar.max = state.cards.length || 1
  bar.value = done
  at('count').textContent = `${done} of ${state.cards.length}`
}

/** Everything on the left. What is shown already stays: a film does not begin anew with every answer. */
function stage() {
  if (!card) return
  const view = at('view')
  const drawing = card.scene && card.questions[active]?.kind === 'prompts'
  const key = `${place} ${drawing ? 'editor' : clip < 0 ? `frame ${frame}` : `film ${clip}`}`
  if (view.dataset.shown !== key) {
    editor?.remove()
    editor = null
    if (drawing) draw(card)
    else view.replaceChildren(...looked(card))
  }
  view.dataset.shown = key
  view.className = card.frames.length ? '' : 'sides'
  const strip = at('strip')
  strip.replaceChildren(...card.frames.map((_, n) => thumb(n)))
  strip.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' })
}

/**
 * Boxes and points in the place of the pictures. Its scripts come when they are first needed.
 * @param {Card} shown
 */
async function draw(shown) {
  const { Prompts } = await import('./prompts.js')
  if (card !== shown || !shown.scene || shown.questions[active]?.kind !== 'prompts') return
  editor = new Prompts(
    shown.scene,
    () => queued(go),
    () => queued(back)
  )
  at('view').replaceChildren(editor.element)
  editor.focus()
}

/** @param {Card} shown */
function looked(shown) {
  if (clip >= 0) return (shown.frames.length ? [shown.clips[clip]] : shown.clips).map(film)
  const one = shown.frames[frame]
  const picture = document.createElement('img')
  picture.src = `media/${one.media}`
  picture.alt = `frame ${one.index}`
  return [made('figure', '', picture, made('figcaption', '', `frame ${one.index}`))]
}

/** @param {{media: string, label: string}} one */
function film(one) {
  const video = document.createElement('video')
  video.src = `media/${one.media}`
  video.muted = true
  video.loop = true
  video.controls = true
  video.playsInline = true
  const caption = made('figcaption', '', one.label)
  video.addEventListener('error', async () => {
    const why = await fetch(video.src)
      .then((reply) => (reply.ok ? null : reply.json()))
      .catch(() => null)
    caption.textContent = `${one.label}: ${why?.error ?? 'this browser cannot play this film (H.264 in MP4 plays everywhere)'}`
    caption.className = 'broken'
  })
  video.addEventListener('loadeddata', together, { once: true })
  return made('figure', '', video, caption)
}

/** Films start at once, when all of them can. */
function together() {
  const films = [...document.querySelectorAll('video')]
  if (films.some((each) => each.readyState < 2 && !each.error)) return
  for (const each of films) {
    each.currentTime = 0
    each.play().catch(() => {}) // a browser that plays nothing by itself waits for the space bar
  }
}

/** @param {number} n */
function thumb(n) {
  const shown = /** @type {Card} */ (card)
  const picture = document.createElement('img')
  picture.src = `media/${shown.frames[n].media}`
  picture.alt = ''
  const button = /** @type {HTMLButtonElement} */ (made('button', '', picture, String(shown.frames[n].index)))
  button.type = 'button'
  button.setAttribute('role', 'option')
  button.setAttribute('aria-selected', String(n === frame))
  button.tabIndex = -1
  if (chosen.has(shown.frames[n].index)) button.classList.add('chosen')
  button.onclick = () => show(n)
  return button
}

/** @param {number} n */
function show(n) {
  if (!card?.frames.length) return
  frame = Math.max(0, Math.min(card.frames.length - 1, n))
  editor?.seek(card.frames[frame].index)
  clip = -1
  stage()
  panel()
}

/** Everything on the right. */
function panel() {
  counted()
  if (!card) return
  /** @type {HTMLElement[]} */
  const lines = []
  let group = ''
  card.questions.forEach((question, n) => {
    if (!counts(question)) return
    if (question.group !== group) lines.push(made('li', 'group', question.group))
    group = question.group
    lines.push(line(question, n))
  })
  const list = at('questions')
  list.replaceChildren(...lines)
  list.querySelector('.active')?.scrollIntoView({ block: 'nearest' })
  const back = /** @type {HTMLButtonElement} */ (at('back'))
  back.disabled = active === 0 && !past.length && place === 0
}

/**
 * @param {Question} question
 * @param {number} n
 */
function line(question, n) {
  const kept = /** @type {Card} */ (card).marks[question.id]
  const row = made('div', 'row', made('span', 'number', String(n + 1)), made('span', 'text', told(question.text)))
  if (kept) row.append(answerOf(question, kept))
  row.onclick = () => {
    active = n
    begun()
    stage()
    panel()
  }
  const item = made('li', n === active ? 'active' : '', row)
  if (n === active) item.append(choices(question, kept))
  return item
}

/**
 * @param {Question} question
 * @param {Mark} kept
 */
function answerOf(question, kept) {
  if (Array.isArray(kept.value)) {
    return made('span', 'said', kept.value.length ? `frames ${kept.value.join(', ')}` : 'none')
  }
  if (question.kind === 'prompts') return made('span', 'said', 'drawn')
  const choice = question.choices.find((each) => each.value === kept.value)
  const where = kept.frame === null ? '' : `, frame ${kept.frame}`
  return made('span', `said ${choice?.tone ?? ''}`, `${choice?.label ?? kept.value}${where}`)
}

/**
 * @param {Question} question
 * @param {Mark | undefined} kept
 */
function choices(question, kept) {
  const row = made('div', 'choices')
  if (question.kind === 'text') row.append(keyed('w'), words(question, kept))
  if (question.kind === 'prompts')
    row.append(button('Enter', 'follow from here', go), button('Escape', 'leave it', back))
  if (question.kind === 'frames' && card) {
    const index = card.frames[frame].index
    const toggle = button('y', chosen.has(index) ? `not frame ${index}` : `it is in frame ${index}`, () => toggled())
    toggle.disabled = frame === 0
    const keep = button('Enter', `keep ${[...chosen].sort((a, b) => a - b).join(', ')}`, () => answer(sorted()))
    keep.disabled = !chosen.size
    row.append(
      toggle,
      button('n', 'nothing, in no frame', () => answer([])),
      keep
    )
  }
  for (const choice of question.choices) {
    const index = choice.onFrame && card ? ` \u00b7 frame ${card.frames[frame]?.index}` : ''
    const one = button(choice.keys[0], choice.label + index, () => answer(choice.value))
    one.classList.toggle('given', kept?.value === choice.value)
    if (choice.tone) one.classList.add(choice.tone)
    row.append(one)
  }
  return row
}

/**
 * @param {string} key
 * @param {string} label
 * @param {() => unknown} act
 */
function button(key, label, act) {
  const one = /** @type {HTMLButtonElement} */ (made('button', '', keyed(key), ` ${label}`))
  one.type = 'button'
  one.onclick = () => queued(act)
  return one
}

/**
 * @param {Question} question
 * @param {Mark | undefined} kept
 */
function words(question, kept) {
  const input = document.createElement('input')
  input.maxLength = 2000
  input.value = typeof kept?.value === 'string' ? kept.value : ''
  input.setAttribute('aria-label', question.text)
  input.addEventListener('keydown', (event) => {
    event.stopPropagation()
    if (event.key === 'Escape') input.blur()
    if (event.key === 'Enter') queued(() => answer(input.value))
  })
  return input
}

function sorted() {
  return [...chosen].sort((a, b) => a - b)
}

function toggled() {
  const index = card?.frames[frame].index
  if (index === undefined || frame === 0) return
  chosen.has(index) ? chosen.delete(index) : chosen.add(index)
  stage()
  panel()
}

/**
 * Has an answer kept, then goes on.
 * @param {string | number[]} value
 */
async function answer(value) {
  if (!card) return
  const [shown, question] = [card, card.questions[active]]
  const choice = question.choices.find((each) => each.value === value)
  const index = choice?.onFrame ? (shown.frames[frame]?.index ?? null) : null
  try {
    const kept = await asked('mark', { item: shown.id, question: question.id, value, frame: index })
    shown.marks[question.id] = { value, frame: index }
    state.cards[place].done = kept.done
    state.busy = kept.busy ?? 0
    for (const each of state.cards) each.done = kept.changed?.[each.id] ?? each.done
    trouble('')
  } catch (error) {
    failed += 1
    return trouble(`Not kept: ${said(error)}.`, () => queued(() => answer(value)))
  }
  return onward()
}

/** The next question; behind the last one the next card that is not done. */
function onward() {
  if (!card) return
  const next = card.questions.findIndex((each, n) => n > active && counts(each))
  if (next >= 0) {
    active = next
    begun()
    stage()
    return panel()
  }
  const left = card.questions.findIndex((each) => card && counts(each) && !(each.id in card.marks) && !each.optional)
  if (left >= 0) {
    active = left
    begun()
    stage()
    return panel()
  }
  past.push(place)
  return open(nextOpen(place))
}

function back() {
  const before = card ? card.questions.findLastIndex((each, n) => n < active && counts(each)) : -1
  if (before >= 0) {
    active = before
    begun()
    stage()
    return panel()
  }
  const there = past.pop() ?? (place > 0 ? place - 1 : card ? -1 : state.cards.length - 1)
  if (there >= 0) return open(there, true)
}

function skip() {
  if (!card) return
  const there = nextOpen(place)
  if (there === place || there < 0) return trouble('This is the only one that is left.')
  past.push(place)
  return open(there)
}

function go() {
  const question = card?.questions[active]
  if (question?.kind === 'frames' && chosen.size) return answer(sorted())
  if (question?.kind === 'prompts') return editor ? answer(editor.text) : undefined
  if (!question) return
  if (question.id in (card?.marks ?? {}) || question.optional) return onward()
  trouble('This question is not answered yet: answer it, or skip the whole with s.')
}

/** Frames, then each film, then frames again. */
function turned() {
  if (!card?.frames.length || !card.clips.length) return
  clip = clip + 1 < card.clips.length ? clip + 1 : -1
  stage()
}

function played() {
  const films = [...document.querySelectorAll('video')]
  if (!films.length) return turned()
  const running = films.some((each) => !each.paused)
  for (const each of films) running ? each.pause() : each.play().catch(() => {})
}

function ended() {
  counted()
  at('strip').replaceChildren()
  at('questions').replaceChildren()
  at('card-title').textContent = ''
  at('card-text').textContent = ''
  const end = made('div', 'end')
  end.append(
    made(
      'h2',
      '',
      state.busy
        ? `${state.busy} to come again`
        : state.cards.length
          ? 'Everything is answered'
          : 'There is nothing to judge'
    ),
    made(
      'p',
      'soft',
      state.busy
        ? 'Something is being made anew for them. They come as soon as they are ready.'
        : 'All of it is kept. You may close this tab, and stop the server with Ctrl-C.'
    )
  )
  if (state.busy) setTimeout(() => queued(again), EVERY)
  if (state.cards.length) end.append(made('p', 'faint', keyed('b'), ' goes back, to look or to change an answer.'))
  const view = at('view')
  view.dataset.shown = ''
  view.replaceChildren(end)
}

/** Looks whether something has come that is to be looked at again. */
async function again() {
  if (card) return
  const now = await asked('state')
  state.busy = now.busy
  state.cards = now.cards
  return open(nextOpen(-1))
}

function guide() {
  /** @type {[string, string][]} */
  const keys = []
  const question = card?.questions[active]
  if (question?.kind === 'frames') keys.push(['y', 'it is seen in this frame'], ['n', 'nothing'])
  for (const choice of question?.choices ?? [])
    keys.push([choice.keys.map((k) => NAMES[k] ?? k).join(' '), choice.label])
  if (card?.frames.length) keys.push(['\u2190 \u2192', 'another frame'])
  if (card?.frames.length && card.clips.length) keys.push(['c', 'frames, film with boxes, film without'])
  if (card?.clips.length) keys.push(['Space', 'plays and stops the film'])
  if (card?.questions.some((each) => each.kind === 'prompts'))
    keys.push(
      ['\u2190 \u2191 \u2192 \u2193', 'while you fix: moves the box (Shift: by 10)'],
      [', . [ ]', 'while you fix: another frame, another key'],
      ['Tab Delete', 'while you fix: the next one, its box away']
    )
  if (card?.questions.some((each) => each.kind === 'text')) keys.push(['w', 'write; Enter keeps the words'])
  keys.push(['b', 'back: any answer can be changed'], ['s', 'skip: it comes again at the end'], ['Enter', 'go on'])
  keys.push(['?', 'this'])
  at('keys').replaceChildren(
    ...keys.flatMap(([key, what]) => [
      made('dt', '', ...key.split(' ').flatMap((k) => [keyed(k), ' '])),
      made('dd', '', what)
    ])
  )
  const box = /** @type {HTMLDialogElement} */ (at('guide'))
  box.showModal()
}

/** @param {KeyboardEvent} event */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return
  if (/** @type {HTMLDialogElement} */ (at('guide')).open) return
  if (event.target instanceof HTMLInputElement) return
  // A key that means nothing to this question may be for the next, which is still to come.
  if (!meant(event.key) && !(waiting && event.key.length === 1)) return
  event.preventDefault()
  if (!event.repeat || event.key.startsWith('Arrow')) queued(() => meant(event.key)?.())
}

/**
 * Does something when what came before it is done: keys may be pressed faster than answers are kept.
 * @param {() => unknown} act
 */
function queued(act) {
  const known = failed
  waiting += 1
  turn = turn.then(async () => {
    try {
      if (known === failed) await act()
    } catch (error) {
      trouble(said(error)) // what comes behind it goes on
    } finally {
      waiting -= 1
    }
  })
}

/**
 * What a key does now.
 * @param {string} key
 * @returns {(() => unknown) | null}
 */
function meant(key) {
  const question = card?.questions[active]
  const choice = question?.choices.find((each) => each.keys.includes(key) || each.keys.includes(key.toLowerCase()))
  if (choice) return () => answer(choice.value)
  if (question?.kind === 'frames' && key.toLowerCase() === 'y') return toggled
  if (question?.kind === 'frames' && key.toLowerCase() === 'n') return () => answer([])
  /** @type {Record<string, () => unknown>} */
  const moves = {
    ArrowLeft: () => show(frame - 1),
    ArrowRight: () => show(frame + 1),
    ArrowUp: () => moved(-1),
    ArrowDown: () => moved(1),
    b: back,
    Backspace: back,
    s: skip,
    c: turned,
    w: () => document.querySelector('input')?.focus(),
    ' ': played,
    Enter: go,
    '?': guide
  }
  return moves[key] ?? moves[key.toLowerCase()] ?? null
}

/** @param {number} by */
function moved(by) {
  if (!card) return
  const places = card.questions.map((_, n) => n).filter((n) => card && counts(card.questions[n]))
  active = places[Math.max(0, Math.min(places.length - 1, places.indexOf(active) + by))]
  begun()
  stage()
  panel()
}

document.addEventListener('keydown', pressed)
at('back').onclick = () => queued(back)
at('skip').onclick = () => queued(skip)
at('next').onclick = () => queued(go)
at('help').onclick = guide
at('guide-close').onclick = () => /** @type {HTMLDialogElement} */ (at('guide')).close()
at('theme').onclick = themed
begin()
