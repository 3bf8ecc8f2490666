// The feeder of RethinkDB's JavaScript tutorial: transient messages, no confirms, no recovery.
// Usage: node tutorial.js RETHINKDB_PORT RABBITMQ_URL DATABASE TABLE EXCHANGE
const r = require('rethinkdb');
const amqp = require('amqplib');

const [port, url, database, table, exchange] = process.argv.slice(2);

function typeOfChange(change) {
  if (change.old_val === null) return 'create';
  if (change.new_val === null) return 'delete';
  return 'update';
}

async function main() {
  const rethinkConn = await r.connect({host: '127.0.0.1', port: Number(port)});
  const rabbitConn = await amqp.connect(url);
  const channel = await rabbitConn.createChannel();
  await channel.assertExchange(exchange, 'topic', {durable: false});
  const cursor = await r.db(database).table(table).changes().run(rethinkConn);
  console.log('ready');
  cursor.each((err, change) => {
    if (err) throw err;
    const routingKey = `${table}.${typeOfChange(change)}`;
    channel.publish(exchange, routingKey, Buffer.from(JSON.stringify(change)));
  });
}

main().catch((err) => { console.error(err); process.exit(1); });
