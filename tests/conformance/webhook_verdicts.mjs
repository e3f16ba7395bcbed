// What Flora's own client says of deliveries: reads them from stdin as JSON, and prints a verdict for each.
// Started by test_webhooks.py. Signs others with Node's own crypto, as Flora's client computes what it expects.

import crypto from 'node:crypto';
import { text } from 'node:stream/consumers';
import Flora from '@flora-ai/flora';

const client = new Flora({ apiKey: 'none', baseURL: 'http://127.0.0.1:9' });
const { deliveries, toSign } = JSON.parse(await text(process.stdin));

const verdicts = [];
for (const { body, signature, secret, now } of deliveries) {
  try {
    await client.webhooks.verify(Buffer.from(body, 'base64'), { 'flora-signature': signature }, secret, {
      now: () => now * 1000,
    });
    verdicts.push(null);
  } catch (error) {
    verdicts.push(`${error.constructor.name}: ${error.message}`);
  }
}

const signed = toSign.map(({ body, secret, second }) => {
  const hmac = crypto.createHmac('sha256', secret).update(`${second}.`).update(Buffer.from(body, 'base64'));
  return `t=${second},v1=${hmac.digest('hex')}`;
});

console.log(JSON.stringify({ verdicts, signed }));
