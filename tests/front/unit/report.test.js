import assert from 'node:assert/strict'
import { test } from 'node:test'
import { address, LONGEST_TEXT, lineCount, reportOfOutput, reportOfProperty } from '../../../web/js/report.js'

test('the outputs of a node become one report', () => {
  const file = { filename: 'a.safetensors', subfolder: 'tracks', type: 'output' }
  assert.deepEqual(reportOfOutput({ text: ['one', 'two'], matrix_warnings: ['look'], files: [file], images: [1] }), {
    text: 'one\n\ntwo',
    warnings: ['look'],
    files: [file]
  })
})

test('warnings alone are a report, and nothing is none', () => {
  assert.deepEqual(reportOfOutput({ matrix_warnings: ['look'] }), { text: '', warnings: ['look'], files: [] })
  for (const nothing of [undefined, null, 3, 'text', [], {}, { text: [] }, { text: 'loose' }, { images: [{}] }]) {
    assert.equal(reportOfOutput(nothing), null)
  }
})

test('a report is kept and read again as it was', () => {
  const report = reportOfOutput({ text: ['<b>one</b>'], matrix_warnings: ['look'], files: [] })
  assert.deepEqual(reportOfProperty(JSON.parse(JSON.stringify(report))), report)
})

test('what a stranger wrote into a workflow is taken by its kind or left', () => {
  const kept = {
    text: 7,
    warnings: ['fine', 3, null, { toString: 'no' }],
    files: [
      { filename: 'x', type: 'C:' },
      { filename: 3, type: 'output' },
      null,
      { filename: 'y', type: 'temp', subfolder: 4 }
    ]
  }
  assert.deepEqual(reportOfProperty(kept), {
    text: '',
    warnings: ['fine'],
    files: [{ filename: 'y', subfolder: '', type: 'temp' }]
  })
  for (const nothing of [undefined, null, 'text', 0, [], { text: '' }]) assert.equal(reportOfProperty(nothing), null)
})

test('a long text is cut, and says by how much', () => {
  const report = reportOfOutput({ text: ['a'.repeat(LONGEST_TEXT + 5)] })
  assert.ok(report?.text.endsWith('\n... (5 more characters)'))
  assert.equal(reportOfOutput({ matrix_warnings: Array(5000).fill('w') })?.warnings.length, 100)
})

test('an address keeps every character of a name to itself', () => {
  const file = { filename: 'a&type=input#?/ü.txt', subfolder: '../x y', type: 'output' }
  const url = new URL(address(file), 'http://host')
  assert.deepEqual(Object.fromEntries(url.searchParams), file)
})

test('lines count as they wrap', () => {
  const report = { text: 'a'.repeat(21), warnings: ['w'], files: [{ filename: 'f', subfolder: '', type: 'temp' }] }
  assert.equal(lineCount(report, 10), 5)
  assert.equal(lineCount({ text: '', warnings: [], files: [] }, 10), 1)
})
