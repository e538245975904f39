// A device as Azure's documentation writes it, with Microsoft's SDK. Nothing in it knows Vauban.
//
//   npm install
//   NODE_EXTRA_CA_CERTS=../../vauban-data/pki/root.pem node device.js "HostName=...;DeviceId=...;SharedAccessKey=..."
'use strict';
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');

const client = Client.fromConnectionString(process.argv[2], Mqtt);

async function main() {
  await client.open();

  client.onDeviceMethod('blink', (request, response) => {
    console.log('blink', request.payload);
    response.send(200, { blinked: request.payload.times });
  });

  const twin = await client.getTwin();
  let interval = 2;
  twin.on('properties.desired.interval', (seconds) => {
    interval = seconds;
    twin.properties.reported.update({ interval }, (err) => console.log('interval is now', interval, err || ''));
  });

  let n = 0;
  const measure = async () => {
    const message = new Message(JSON.stringify({ temperature: +(20 + 5 * Math.sin(n++ / 5)).toFixed(2) }));
    message.contentType = 'application/json';
    message.contentEncoding = 'utf-8';
    message.properties.add('unit', 'C');
    await client.sendEvent(message);
    setTimeout(measure, interval * 1000);
  };
  await measure();
  console.log('connected');
}

main().catch((err) => {
  console.error(err.toString());
  process.exit(1);
});
