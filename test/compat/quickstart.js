'use strict';

// azure-iothub, and Plug and Play's view of a twin, in front of the virtual B-L475E-IOT01A with the getting-started firmware:
// `vauban board run`, in real time.

const { spawn } = require('node:child_process');
const readline = require('node:readline');
const { Client, DigitalTwinClient, IoTHubTokenCredentials, Registry } = require('azure-iothub');
const { assert, cleanup, connection, host, poll, telemetry, test, unique } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);
const service = Client.fromConnectionString(connection.hub.connectionString);
const twins = new DigitalTwinClient(new IoTHubTokenCredentials(connection.hub.connectionString));
const model = 'dtmi:azurertos:devkit:gsgstml4s5;2';

// board runs one until the case is over, and keeps what it says about itself.
async function board(deviceId) {
  const { responseBody } = await registry.create({ deviceId });
  const connectionString = `HostName=${host};DeviceId=${deviceId};SharedAccessKey=${responseBody.authentication.symmetricKey.primaryKey}`;
  const child = spawn(process.env.VAUBAN_BIN, ['board', 'run', '--connection-string', connectionString, '--ca', connection.ca, '--interval', '1s', '--output', 'json'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise((resolve) => { child.on('exit', resolve); });
  cleanup(() => { child.kill(); });
  const lines = [];
  readline.createInterface({ input: child.stdout }).on('line', (line) => lines.push(JSON.parse(line)));
  return {
    lines,
    led: () => lines.filter((l) => l.event === 'led').at(-1),
    async stop() {
      child.kill('SIGINT');
      return ended;
    },
  };
}

const reported = async (deviceId) => (await registry.getTwin(deviceId)).responseBody.properties.reported;

test('the getting-started firmware speaks its model', ['RTOS-39'], async () => {
  const deviceId = unique('stm32');
  const stream = await telemetry(deviceId);
  const hardware = await board(deviceId);

  // Four messages in turn, in the units of ST's board support package.
  const names = [
    ['humidity', 'temperature', 'pressure'],
    ['magnetometerX', 'magnetometerY', 'magnetometerZ'],
    ['accelerometerX', 'accelerometerY', 'accelerometerZ'],
    ['gyroscopeX', 'gyroscopeY', 'gyroscopeZ'],
  ];
  const bodies = [];
  for (let i = 0; i < 5; i++) {
    const message = await stream.next();
    assert.deepEqual(Object.keys(message.body), names[i % 4]);
    for (const v of Object.values(message.body)) {
      assert.equal(typeof v, 'number');
      assert.ok(Number.isInteger(Math.round(v * 1e8) / 1e6), `${v} has more than two decimals`);
    }
    bodies.push(message.body);
  }
  assert.ok(bodies[0].pressure > 900 && bodies[0].pressure < 1100, `pressure ${bodies[0].pressure}, want hPa`);
  assert.ok(bodies[0].temperature > -40 && bodies[0].temperature < 85);
  assert.ok(bodies[0].humidity > 0 && bodies[0].humidity <= 100);
  assert.ok(Object.values(bodies[1]).every(Number.isInteger) && Object.values(bodies[1]).some((v) => Math.abs(v) > 50), 'the magnetic field is in whole mG');
  const g = Math.hypot(...Object.values(bodies[2]));
  assert.ok(Object.values(bodies[2]).every(Number.isInteger) && g > 900 && g < 1100, `acceleration ${g}, want about 1000 mg`);
  assert.ok(Object.values(bodies[3]).some((v) => Math.abs(v) > 10), 'rotation is in mdps: its offset shows');

  // The model and what is reported first; telemetryInterval as an answer to version 1, which nobody asked.
  const { responseBody: twin } = await registry.getTwin(deviceId);
  assert.equal(twin.modelId, model);
  assert.equal(twin.properties.desired.telemetryInterval, undefined);
  const { $metadata, $version, ...first } = twin.properties.reported;
  assert.deepEqual(first, {
    deviceInformation: {
      __t: 'c', manufacturer: 'STMicroelectronics', model: 'B-L475E-IOT01A', swVersion: '1.0.0', osName: 'Azure RTOS',
      processorArchitecture: 'Arm Cortex M4', processorManufacturer: 'STMicroelectronics', totalStorage: 1024, totalMemory: 128,
    },
    ledState: false,
    telemetryInterval: { ac: 200, av: 1, value: 1 },
  });
  const seen = await twins.getDigitalTwin(deviceId);
  assert.equal(seen.$metadata.$model, model);
  assert.equal(seen.deviceInformation.model, 'B-L475E-IOT01A');
  assert.equal(seen.telemetryInterval, 1);
  assert.deepEqual([seen.$metadata.telemetryInterval.ackCode, seen.$metadata.telemetryInterval.ackVersion], [200, 1]);

  // The command: 200 and nothing else, then the property; the LED is the pin PB14.
  for (const on of [true, false, true]) {
    const { result } = await service.invokeDeviceMethod(deviceId, { methodName: 'setLedState', payload: on, responseTimeoutInSeconds: 15 });
    assert.equal(result.status, 200);
    assert.ok(result.payload === null || result.payload === undefined, `an empty answer, not ${JSON.stringify(result.payload)}`);
    assert.deepEqual([hardware.led()?.pin, hardware.led()?.on], ['PB14', on]);
    await poll(`ledState ${on}`, async () => (await reported(deviceId)).ledState === on);
  }
  const { result: unknown } = await service.invokeDeviceMethod(deviceId, { methodName: 'selfDestruct', payload: {}, responseTimeoutInSeconds: 15 });
  assert.equal(unknown.status, 501);
  assert.equal(hardware.led().on, true);

  // The property is written, obeyed and acknowledged with its own version.
  const { responseBody: written } = await registry.updateTwin(deviceId, { properties: { desired: { telemetryInterval: 2 } } }, twin.etag);
  await poll('the acknowledgement', async () => {
    const { ac, av, value } = (await reported(deviceId)).telemetryInterval;
    return ac === 200 && av === written.properties.desired.$version && value === 2;
  });
  assert.notEqual(written.properties.desired.$version, 1);
  assert.ok(hardware.lines.some((l) => l.event === 'interval' && l.text === '2'));
  const { responseBody: again } = await registry.updateTwin(deviceId, { properties: { desired: { telemetryInterval: 1 } } }, '*');
  await poll('the second acknowledgement', async () => (await reported(deviceId)).telemetryInterval.av === again.properties.desired.$version);

  assert.equal(await hardware.stop(), 0);
  const end = hardware.lines.at(-1);
  assert.deepEqual([end.event, end.connected, end.lost, end.resets], ['end', 1, 0, 0]);
});
