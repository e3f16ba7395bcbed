// Flora's own client drives the emulator: what it accepts, an emulator of Flora may answer.
// Started by test_flora_client.py, which says in the environment where the emulator is. Needs Node's test
// runner and @flora-ai/flora, nothing else.

import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import fs from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { beforeEach, test } from 'node:test';
import Flora from '@flora-ai/flora';

const { EMULATOR_ORIGIN: origin, EMULATOR_KEY: apiKey, EMULATOR_WEBHOOK_SECRET: webhookSecret } = process.env;
const { EMULATOR_SITE_ORIGIN: siteOrigin } = process.env; // the other account of idempotency
const baseURL = `${origin}/api/v1`;
const client = new Flora({ apiKey, baseURL, maxRetries: 0 });
const inputs = [{ id: 'prompt', type: 'text', value: 'A kettle' }];
const RUN_STATUSES = ['pending', 'running', 'completed', 'failed'];

async function control(method, path, body) {
  const answer = await fetch(`${origin}/_emulator/${path}`, { method, body: body && JSON.stringify(body) });
  assert.equal(answer.status, 200, await answer.clone().text());
  return answer.json();
}

const order = (fault) => control('POST', 'faults', fault);

function start(extra = {}, using = client) {
  return using.techniques.runs.create('editorial-still', { inputs, mode: 'async', ...extra });
}

async function ended(run, techniqueId = 'editorial-still') {
  while (run.status !== 'completed' && run.status !== 'failed') {
    await new Promise((resolve) => setTimeout(resolve, 20));
    run = await client.techniques.runs.retrieve(run.run_id, { techniqueId });
  }
  return run;
}

function checkRun(run) {
  assert.match(run.run_id, /^run_/);
  assert.ok(RUN_STATUSES.includes(run.status), run.status);
  for (const field of ['created_at', 'progress']) assert.equal(typeof run[field], 'number', field);
  for (const field of ['charged_cost', 'started_at', 'completed_at']) {
    assert.ok(['number', 'undefined'].includes(typeof run[field]), field);
  }
  if (run.poll_url !== undefined) assert.ok(new URL(run.poll_url));
  for (const output of run.outputs ?? []) {
    assert.deepEqual(Object.keys(output).sort(), ['output_id', 'type', 'url']);
  }
}

function checkSlot(slot) {
  const types = ['imageUrl', 'videoUrl', 'audioUrl', 'text', 'documentUrl'];
  assert.ok(types.includes(slot.type), slot.type);
  const optional = {
    accepts_element: 'boolean',
    allow_multiple: 'boolean',
    description: 'string',
    optional: 'boolean',
    specified_aspect_ratio: 'string',
    specified_duration: 'number',
  };
  for (const [field, value] of Object.entries(slot)) {
    assert.equal(typeof value, optional[field] ?? 'string', field);
    assert.ok(field in optional || ['id', 'name', 'type'].includes(field), field);
  }
}

beforeEach(() => control('POST', 'reset'));

test('workspaces.list', async () => {
  const { workspaces } = await client.workspaces.list();
  assert.equal(workspaces.length, 1);
  assert.deepEqual(Object.keys(workspaces[0]).sort(), ['created_at', 'name', 'role', 'workspace_id']);
  assert.match(workspaces[0].workspace_id, /^ws_/);
});

test('techniques.list goes through all pages by itself', async () => {
  const found = [];
  for await (const technique of client.techniques.list({ limit: 4 })) found.push(technique);
  assert.ok(found.length >= 10);
  assert.equal(new Set(found.map((technique) => technique.technique_id)).size, found.length);
  for (const technique of found) {
    assert.equal(typeof technique.run_cost, 'number');
    technique.inputs.forEach(checkSlot);
    technique.outputs.forEach(checkSlot);
  }
  const { requests } = await control('GET', 'ledger');
  assert.equal(requests.listTechniques, Math.ceil(found.length / 4));
});

test('techniques.list filters', async () => {
  const { workspaces } = await client.workspaces.list();
  const page = await client.techniques.list({ query: 'relight', workspace_id: workspaces[0].workspace_id });
  assert.deepEqual(page.techniques.map((technique) => technique.name), ['Product Relight']);
  assert.equal(page.hasNextPage(), false);
});

test('techniques.retrieve by id and by slug', async () => {
  const technique = await client.techniques.retrieve('product-relight');
  assert.deepEqual(await client.techniques.retrieve(technique.technique_id), technique);
});

test('techniques.runs.create, then retrieve until the end', async () => {
  const run = await start({ idempotency_key: 'k1' });
  checkRun(run);
  assert.equal(run.status, 'pending');
  const end = await ended(run);
  checkRun(end);
  assert.equal(end.status, 'completed');
  assert.equal(end.run_id, run.run_id);
  const picture = await fetch(end.outputs[0].url);
  assert.equal(picture.headers.get('content-type'), 'image/png');
});

test('a technique with media inputs', async () => {
  const run = await client.techniques.runs.create('product-relight', {
    inputs: [
      { id: 'photo', type: 'imageUrl', value: `${origin}/media/samples/lamp.png` },
      { id: 'light', type: 'text', value: 'overcast' },
    ],
    mode: 'async',
  });
  assert.equal((await ended(run, 'product-relight')).status, 'completed');
});

test('a run that fails', async () => {
  await order({ kind: 'fail_run', error_code: 'LLM_REFUSAL', error_message: 'No.' });
  const run = await ended(await start());
  checkRun(run);
  assert.deepEqual([run.status, run.progress, run.error_code, run.error_message], ['failed', 100, 'LLM_REFUSAL', 'No.']);
});

test('mode stream gives events', async () => {
  const answer = await start({ mode: 'stream' });
  const events = String(answer)
    .split('\n\n')
    .filter(Boolean)
    .map((event) => JSON.parse(event.replace(/^data: /, '')));
  events.forEach(checkRun);
  assert.equal(events.at(-1).status, 'completed');
});

test('techniques.runs.list goes through more than a hundred runs by itself', async () => {
  const { run_ids } = await control('POST', 'runs', { count: 130, technique_id: 'wonder-fy' });
  const seen = [];
  for await (const item of client.techniques.runs.list({ limit: 50 })) {
    checkRun(item);
    assert.equal(item.technique_run_id, item.run_id);
    assert.equal(item.technique.technique_id, 'tech_wonder-fy');
    for (const field of ['workspace_id', 'project_id']) assert.equal(typeof item[field], 'string');
    seen.push(item.run_id);
  }
  assert.deepEqual(seen, run_ids.reverse());
});

test('techniques.runs.list filters', async () => {
  await control('POST', 'runs', { count: 3, technique_id: 'wonder-fy', status: 'failed' });
  await control('POST', 'runs', { count: 2, technique_id: 'wonder-fy', status: 'running' });
  await control('POST', 'runs', { count: 1, status: 'running' });
  const [first] = (await client.techniques.runs.list()).technique_runs;
  const { workspace_id, project_id } = first;
  const page = await client.techniques.runs.list({
    status: 'running',
    technique_id: 'wonder-fy',
    workspace_id,
    project_id,
  });
  assert.equal(page.technique_runs.length, 2);
  assert.equal(page.meta.total_estimate, 2);
});

test('every answer has a request id', async () => {
  const { response } = await client.workspaces.list().withResponse();
  assert.match(response.headers.get('request-id'), /^req_/);
});

for (const [status, error] of [
  [400, Flora.BadRequestError],
  [401, Flora.AuthenticationError],
  [403, Flora.PermissionDeniedError],
  [404, Flora.NotFoundError],
  [409, Flora.ConflictError],
  [422, Flora.UnprocessableEntityError],
  [429, Flora.RateLimitError],
  [500, Flora.InternalServerError],
  [502, Flora.InternalServerError],
  [503, Flora.InternalServerError],
  [402, Flora.APIError],
]) {
  test(`an ordered ${status} is a ${error.name}`, async () => {
    await order({ kind: 'status', status });
    await assert.rejects(start(), (thrown) => {
      assert.ok(thrown instanceof error);
      assert.equal(thrown.constructor, error);
      assert.equal(thrown.status, status);
      assert.match(thrown.headers.get('request-id'), /^req_/);
      assert.deepEqual(Object.keys(thrown.error), ['error']);
      assert.equal(typeof thrown.error.error.code, 'string');
      assert.equal(typeof thrown.error.error.message, 'string');
      return true;
    });
  });
}

test('real errors, not ordered ones', async () => {
  const other = new Flora({ apiKey: 'sk_test_wrong', baseURL, maxRetries: 0 });
  await assert.rejects(other.workspaces.list(), Flora.AuthenticationError);
  await assert.rejects(client.techniques.retrieve('nope'), Flora.NotFoundError);
  await assert.rejects(start({ inputs: [] }), (thrown) => {
    assert.ok(thrown instanceof Flora.BadRequestError);
    assert.deepEqual(thrown.error.error.fields, [{ field: 'prompt', message: 'Required' }]);
    return true;
  });
  await assert.rejects(start({ callback_url: 'https://10.0.0.1/' }), Flora.BadRequestError);
  await assert.rejects(client.techniques.runs.list({ limit: 101 }), Flora.BadRequestError);
  await assert.rejects(client.techniques.runs.list({ project_id: 'uuid' }), Flora.InternalServerError);
});

test('a repeated key is a conflict', async () => {
  await start({ idempotency_key: 'k2' });
  await assert.rejects(start({ idempotency_key: 'k2' }), Flora.ConflictError);
});

test('a repeated key by the other account: a replay, or a 422', async () => {
  const site = new Flora({ apiKey, baseURL: `${siteOrigin}/api/v1`, maxRetries: 0 });
  const first = await start({ idempotency_key: 'k3' }, site);
  const { data, response } = await start({ idempotency_key: 'k3' }, site).withResponse();
  assert.deepEqual(data, first);
  assert.equal(response.headers.get('idempotent-replayed'), 'true');
  const other = [{ ...inputs[0], value: 'A teapot' }];
  await assert.rejects(start({ idempotency_key: 'k3', inputs: other }, site), Flora.UnprocessableEntityError);
});

test('an error page of a proxy', async () => {
  await order({ kind: 'html' });
  await assert.rejects(client.workspaces.list(), (thrown) => {
    assert.ok(thrown instanceof Flora.InternalServerError);
    assert.match(thrown.message, /Bad Gateway/);
    return true;
  });
});

test('half an answer', async () => {
  await order({ kind: 'cut_json' });
  await assert.rejects(client.workspaces.list(), SyntaxError);
});

test('a reset connection is a connection error', async () => {
  await order({ kind: 'reset' });
  await assert.rejects(client.workspaces.list(), (thrown) => thrown.constructor === Flora.APIConnectionError);
});

test('a late answer is a timeout', async () => {
  await order({ kind: 'delay', seconds: 1 });
  await assert.rejects(client.workspaces.list({ timeout: 100 }), Flora.APIConnectionTimeoutError);
});

test('the client retries what it can, after the time that it is told', async () => {
  await order({ kind: 'status', status: 429, retry_after: 1 });
  await order({ kind: 'reset' });
  const begun = Date.now();
  await client.workspaces.list({ maxRetries: 2 });
  assert.ok(Date.now() - begun >= 1000);
  assert.equal((await control('GET', 'ledger')).requests.listWorkspaces, 3);
});

const workspace_id = 'ws_emulator';
const upload = (file, extra = {}, using = client) =>
  using.assets.upload(file, { workspace_id, pollIntervalMs: 20, ...extra });
const reserve = (extra = {}, options) =>
  client.assets.create({ source: 'signed-url', workspace_id, file_name: 'photo.png', ...extra }, options);
const photo = () => fetch(`${origin}/media/samples/mug.png`).then(async (got) => Buffer.from(await got.arrayBuffer()));
const sha256 = (bytes) => crypto.createHash('sha256').update(bytes).digest('hex');

function check(thing, types) {
  for (const [field, type] of Object.entries(types)) {
    const optional = type.endsWith('?');
    const found = thing[field] === null ? 'null' : typeof thing[field];
    if (optional && !(field in thing)) continue;
    assert.ok(type.replace('?', '').split('|').includes(found), `${field} is ${found}`);
  }
  for (const field of Object.keys(thing)) assert.ok(field in types, `${field} is not in the client's types`);
}

const METADATA = {
  asset_id: 'string',
  content_type: 'string',
  description: 'string|null',
  height: 'number|null',
  name: 'string|null',
  size_bytes: 'number|null',
  status: 'string',
  upload_content_type: 'string|null',
  uploaded_via: 'string',
  url: 'string|null',
  width: 'number|null',
  workspace_id: 'string|null',
};
const RETRIEVED = { ...METADATA, created_at: 'string|null', failure_message: 'string|null' };
const LISTED = { ...METADATA, created_at: 'number|null', node_id: 'string|null?', project_id: 'string|null?' };
const CHANGED = {
  asset_id: 'string',
  status: 'string',
  url: 'string|null',
  visibility: 'string',
  workspace_id: 'string|null',
  uploaded_via: 'string?',
  expires_at: 'string?',
  failure_message: 'string|null?',
  upload: 'object?',
  upload_url: 'string?',
};
const CREATED = { ...CHANGED, url: 'string', workspace_id: 'string', uploaded_via: 'string' };

async function checkReady(asset, bytes, via) {
  check(asset, RETRIEVED);
  assert.deepEqual([asset.status, asset.uploaded_via, asset.size_bytes], ['ready', via, bytes.length]);
  const served = await fetch(asset.url);
  assert.equal(served.headers.get('content-type'), asset.content_type);
  assert.equal(sha256(Buffer.from(await served.arrayBuffer())), sha256(bytes));
  const { uploads } = await control('GET', 'ledger');
  for (const { authorization } of uploads) assert.equal(authorization, false);
}

test('assets.upload of a small file, by its path and from memory', async () => {
  const bytes = await photo();
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'flora-conformance-'));
  try {
    const file = path.join(folder, 'mug.png');
    await fs.writeFile(file, bytes);
    const asset = await upload(file, { folder: 'in', project_id: 'prj_emulator' });
    assert.deepEqual([asset.name, asset.content_type, asset.width], ['mug.png', 'image/png', 640]);
    await checkReady(asset, bytes, 'direct');
  } finally {
    await fs.rm(folder, { recursive: true });
  }
  await checkReady(await upload(new File([bytes], 'mug.png', { type: 'image/png' })), bytes, 'direct');
  assert.equal((await control('GET', 'ledger')).requests.createAsset, 2);
});

test('assets.upload of 20 MB goes through a signed upload', async () => {
  const bytes = crypto.randomBytes(20 * 1024 * 1024);
  await checkReady(await upload(bytes, { file_name: 'video.mp4' }), bytes, 'signed_url');
  const { requests, uploads } = await control('GET', 'ledger');
  assert.deepEqual([requests.createAsset, requests.uploadBytes, requests.completeAsset], [1, 1, 1]);
  assert.equal(uploads[0].method, 'POST');
});

test('assets.upload falls back on the upload URL', async () => {
  const bytes = crypto.randomBytes(5 * 1024 * 1024);
  const without = async (url, init) => {
    const answer = await fetch(url, init);
    if (!String(url).endsWith('/assets')) return answer;
    const { upload: _, ...rest } = await answer.json();
    return Response.json(rest);
  };
  const other = new Flora({ apiKey, baseURL, maxRetries: 0, fetch: without });
  await checkReady(await upload(bytes, { file_name: 'video.mp4' }, other), bytes, 'signed_url');
  assert.equal((await control('GET', 'ledger')).uploads[0].method, 'PUT');
});

test('assets.upload of a URL', async () => {
  const asset = await upload(`${origin}/media/samples/mug.png`);
  assert.equal(asset.name, 'mug.png');
  await checkReady(asset, await photo(), 'url');
});

test('assets.upload tells why it failed', async () => {
  await order({ kind: 'fail_asset', failure_message: 'The scanner was down.' });
  await assert.rejects(upload(await photo(), { file_name: 'mug.png' }), /failed to process: The scanner was down/);
  await order({ kind: 'expire_upload' });
  await assert.rejects(upload(Buffer.alloc(5 * 1024 * 1024), { file_name: 'video.mp4' }), /403 Forbidden - [^]*expired/);
});

test('an asset, step by step', async () => {
  const reserved = await reserve({ content_type: 'image/png' });
  check(reserved, CREATED);
  check(reserved.upload, {
    content_type: 'string',
    file_field: 'string',
    form_fields: 'object',
    method: 'string',
    url: 'string',
  });
  assert.notEqual(new URL(reserved.upload.url).origin, origin);
  await assert.rejects(client.assets.complete(reserved.asset_id), Flora.ConflictError);
  await assert.rejects(client.assets.retry(reserved.asset_id), Flora.ConflictError);
  await order({ kind: 'expire_upload' });
  assert.equal((await fetch(reserved.upload_url, { method: 'PUT', body: await photo() })).status, 403);
  const fresh = await client.assets.retry(reserved.asset_id);
  check(fresh, CHANGED);
  assert.equal((await fetch(fresh.upload_url, { method: 'PUT', body: await photo() })).status, 204);
  check(await client.assets.complete(reserved.asset_id), CHANGED);
  let asset;
  do check((asset = await client.assets.retrieve(reserved.asset_id)), RETRIEVED);
  while (asset.status === 'pending_upload');
  await checkReady(asset, await photo(), 'signed_url');
});

test('assets.list goes through all pages by itself', async () => {
  const made = [];
  for (let n = 0; n < 7; n += 1) made.push((await reserve({ file_name: `${n}.png` })).asset_id);
  const seen = [];
  for await (const asset of client.assets.list({ limit: 3, workspace_id })) {
    check(asset, LISTED);
    seen.push(asset.asset_id);
  }
  assert.deepEqual(seen, made.reverse());
  const page = await client.assets.list({ query: '4.PNG' });
  assert.deepEqual(page.assets.map((asset) => asset.name), ['4.png']);
});

test('errors of assets', async () => {
  await assert.rejects(reserve({ content_type: 'text/plain' }), (thrown) => {
    assert.ok(thrown instanceof Flora.BadRequestError);
    assert.equal(thrown.error.error.code, 'input_validation_error');
    assert.deepEqual(thrown.error.error.fields.map(({ field }) => field), ['content_type']);
    return true;
  });
  await assert.rejects(reserve({ source: 'https://169.254.169.254/latest' }), Flora.BadRequestError);
  await assert.rejects(reserve({ workspace_id: 'ws_other' }), Flora.PermissionDeniedError);
  await assert.rejects(reserve({ project_id: 'prj_other' }), Flora.NotFoundError);
  await assert.rejects(reserve({ project_id: 'uuid' }), Flora.InternalServerError);
  await assert.rejects(client.assets.retrieve('asset_nope'), Flora.NotFoundError);
  const other = new Flora({ apiKey: 'sk_test_wrong', baseURL, maxRetries: 0 });
  await assert.rejects(upload(await photo(), {}, other), Flora.AuthenticationError);
  await order({ kind: 'status', status: 429, operation: 'createAsset' });
  await assert.rejects(reserve(), Flora.RateLimitError);
  await order({ kind: 'reset', operation: 'createAsset' });
  await assert.rejects(reserve(), (thrown) => thrown.constructor === Flora.APIConnectionError);
});

test('a repeated key of an asset is a conflict', async () => {
  const headers = { 'Idempotency-Key': 'a1' };
  await reserve({}, { headers });
  await assert.rejects(reserve({}, { headers }), (thrown) => {
    assert.ok(thrown instanceof Flora.ConflictError);
    assert.equal(thrown.error.error.code, 'idempotency_duplicate');
    return true;
  });
});

test('webhooks.unwrap takes a webhook that was really delivered, and no other', async () => {
  let server;
  const delivered = new Promise((resolve) => {
    server = http.createServer((request, answer) => {
      const parts = [];
      request.on('data', (part) => parts.push(part));
      request.on('end', () => {
        answer.writeHead(204).end();
        resolve({ headers: request.headers, body: Buffer.concat(parts) });
      });
    });
    server.listen(0, '127.0.0.1');
  });
  await new Promise((resolve) => server.once('listening', resolve));
  try {
    await order({ kind: 'fail_run', error_code: 'GENERATION_NO_RESULT', error_message: 'Nothing came.' });
    const run = await start({ callback_url: `http://127.0.0.1:${server.address().port}/hook` });
    const { headers, body } = await delivered;
    const event = await client.webhooks.unwrap(body, headers, webhookSecret);
    assert.equal(event.type, 'run.failed');
    assert.equal(event.id, headers['flora-webhook-id']);
    assert.equal(event.type, headers['flora-event']);
    assert.equal(event.api_version, '2026-06-11');
    const { workspaces } = await client.workspaces.list();
    assert.deepEqual(event.data, {
      run_id: run.run_id,
      run_type: 'technique',
      workspace_id: workspaces[0].workspace_id,
      status: 'failed',
      error_code: 'GENERATION_NO_RESULT',
      error_message: 'Nothing came.',
    });
    await assert.rejects(client.webhooks.unwrap(`${body} `, headers, webhookSecret), /does not match/);
    await assert.rejects(client.webhooks.unwrap(body, headers, 'whsec_other'), /does not match/);
    const later = { now: () => Date.now() + 301_000 };
    await assert.rejects(client.webhooks.unwrap(body, headers, webhookSecret, later), /too old/);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});
