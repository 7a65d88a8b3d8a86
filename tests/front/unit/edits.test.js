import assert from 'node:assert/strict'
import { test } from 'node:test'
import { add, dropKey, moveKey, remove, rename, setKey } from '../../../web/js/editor/edits.js'
import { BOXES, GrammarError, instances, PROMPTS, parse, print } from '../../../web/js/editor/grammar.js'
import { History } from '../../../web/js/editor/history.js'
import { boxOf } from '../../../web/js/editor/values.js'

const SIZE = { width: 640, height: 480 }
const TEXT = '# who\n cat (subject) :  0: 10% 20% 30% 40% ;12 = 1,2,30,40;\n\nvan: 5 6 70 80'
const box = (/** @type {number} */ n, percent = false) => boxOf([n, n, n + 20, n + 20], SIZE, percent)

test('what nobody edits stays as it was typed', () => {
  for (const text of [TEXT, '', '# only a note', 'a: 1 2 3 4;;', `${TEXT}\r\n\t`, 'a: 1 2 3 4\u2028b: 1 2 3 4\n']) {
    assert.equal(print(parse(text, BOXES)), text)
  }
})

test('one key changes, and nothing else', () => {
  const doc = parse(TEXT, BOXES)
  assert.equal(print(setKey(doc, 'cat', 12, box(7))), TEXT.replace('12 = 1,2,30,40', ' 12: 7 7 27 27'))
  assert.equal(print(setKey(doc, 'cat', 5, box(7))), TEXT.replace(';12', '; 5: 7 7 27 27;12'))
  assert.equal(print(setKey(doc, 'van', 0, box(9))), TEXT.replace('5 6 70 80', '9 9 29 29'))
  assert.equal(print(setKey(doc, 'van', 3, null)), `${TEXT}; 3: off`)
  assert.equal(print(moveKey(doc, 'cat', 12, 20)), TEXT.replace('12 = 1,2,30,40;', ' 20: 1 2 30 40;'))
  assert.equal(print(doc), TEXT)
})

test('the last key takes its instance along', () => {
  const doc = parse(TEXT, BOXES)
  assert.equal(print(dropKey(doc, 'van', 0)), TEXT.slice(0, TEXT.indexOf('van')))
  assert.equal(print(dropKey(doc, 'cat', 0)), TEXT.replace('  0: 10% 20% 30% 40% ;', ''))
  assert.equal(print(remove(doc, 'CAT')), '# who\n\nvan: 5 6 70 80')
})

test('instances come, and are called something else', () => {
  const doc = parse(TEXT, BOXES)
  assert.equal(print(add(doc, { name: 'dog', role: 'object' }, 4, box(1))), `${TEXT}\ndog (object): 4: 1 1 21 21`)
  assert.equal(print(rename(doc, 'van', { name: 'bus', role: null })), TEXT.replace('van:', 'bus:'))
  for (const name of ['a:b', '# a', 'x (subject)', 'Cat', '', ' a', '{a', 'a\nb']) {
    const head = { name, role: null }
    if (name === '{a') assert.throws(() => add(parse('', BOXES), head, 0, box(1)))
    else assert.throws(() => rename(doc, 'van', head), undefined, name)
  }
})

test('JSON stays JSON, in the order of its entries', () => {
  const doc = parse('{"b": {"12": [1, 2, 3, 4], "2": null}, "1": {"0": [1, 2, 3, 4]}}', BOXES)
  assert.equal(
    print(setKey(doc, 'b', 2, box(5))),
    '{\n  "b": {"2": [5,5,25,25], "12": [1,2,3,4]},\n  "1": {"0": [1,2,3,4]}\n}'
  )
})

test('points and boxes of a prompt', () => {
  const text = 'cat: 0: 1,2 -3,4 [5,6,70,80]; 9: off'
  const doc = parse(text, PROMPTS)
  const [{ parts }] = instances(doc)
  assert.equal(
    print(setKey(doc, 'cat', 4, /** @type {any} */ (parts[0].key?.value))),
    text.replace(';', '; 4: 1,2 -3,4 [5,6,70,80];')
  )
})

test('an error says its line', () => {
  const line = (/** @type {string} */ text) => {
    try {
      parse(text, BOXES)
    } catch (error) {
      return error instanceof GrammarError ? error.line : -1
    }
    return null
  }
  assert.equal(line('# a\n\nvan 1 2 3 4'), 3)
  assert.equal(line('a: 1 2 3 4\nb: 1 2 3'), 2)
  assert.equal(line('a: 1 2 3 4\nA : 1 2 3 4'), 2)
  assert.equal(line('{"a": 3}'), 0)
  assert.equal(line(TEXT), null)
})

test('undo goes back, redo forth, and a new edit forgets what was undone', () => {
  const history = new History('a')
  for (const text of ['b', 'b', 'c']) history.push(text)
  assert.deepEqual([history.undo(), history.undo(), history.undo()], ['b', 'a', null])
  assert.deepEqual([history.redo(), history.now], ['b', 'b'])
  history.push('d')
  assert.deepEqual([history.redo(), history.undo(), history.undo(), history.now], [null, 'b', 'a', 'a'])
  for (let i = 0; i < 1000; i++) history.push(String(i))
  assert.equal(history.past.length, 200)
})
