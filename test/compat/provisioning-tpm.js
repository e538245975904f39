'use strict';

// azure-iot-security-tpm: a device proves itself with a TPM 2.0, which is a software one behind the Unix socket VAUBAN_TPM, and then
// uses its hub with the key that stays inside the TPM.

const net = require('node:net');
const { NoRetry, SharedAccessSignature } = require('azure-iot-common');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Registry } = require('azure-iothub');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Http } = require('azure-iot-provisioning-device-http');
const { Mqtt: ProvisioningMqtt } = require('azure-iot-provisioning-device-mqtt');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { TpmSecurityClient } = require('azure-iot-security-tpm');
const { Tpm } = require('tss.js');
const { assert, cleanup, connection, host, rejected, telemetry, test, within } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);
const service = ProvisioningServiceClient.fromConnectionString(connection.dps.connectionString);
const { hostname, idScope } = connection.dps;

// Socket is the way to the TPM, in place of /dev/tpm0: a connection for a command and its answer.
class Socket {
  connect(done) {
    setImmediate(done, null);
    return null;
  }

  dispatchCommand(command, done) {
    const socket = net.createConnection(process.env.VAUBAN_TPM, () => socket.write(command));
    let answer = Buffer.alloc(0);
    socket.on('data', (chunk) => {
      answer = Buffer.concat([answer, chunk]);
      if (answer.length >= 10 && answer.length >= answer.readUInt32BE(2)) {
        socket.destroy();
        done(null, answer);
      }
    });
    socket.on('error', done);
  }

  close() {}
}

function client(registrationId) {
  const tpm = new Tpm(true);
  tpm.device = new Socket();
  return new TpmSecurityClient(registrationId, tpm);
}

const ask = (security, method) => within(method, new Promise((resolve, reject) => {
  security[method]((err, value) => (err ? reject(err) : resolve(value)));
}), 20_000);
const sign = (security, data) => within('signing', new Promise((resolve, reject) => {
  security.signWithIdentity(Buffer.from(data), (err, mac) => (err ? reject(err) : resolve(mac)));
}));

const register = (security) => {
  const device = ProvisioningDeviceClient.create(hostname, idScope, new Http(), security);
  return within('the registration', device.register(), 25_000);
};

test('a TPM: challenge, registration, and the key of the hub', ['DPS-25'], async () => {
  const security = client();
  const endorsementKey = (await ask(security, 'getEndorsementKey')).toString('base64');
  const registrationId = await ask(security, 'getRegistrationId'); // made of the endorsement key
  assert.match(registrationId, /^[a-z2-7]{52}$/);
  const unknown = await rejected(register(security));
  assert.match(unknown.message, /authentication blob/); // 401, and no challenge in it

  const { responseBody: enrollment } = await service.createOrUpdateIndividualEnrollment({
    registrationId, deviceId: 'tpm-device', attestation: { type: 'tpm', tpm: { endorsementKey } }, initialTwin: { tags: { tpm: true }, properties: { desired: {} } },
  });
  assert.deepEqual(enrollment.attestation, { type: 'tpm', tpm: { endorsementKey } });
  const result = await register(security);
  assert.equal(result.registrationState ? result.registrationState.status : result.status, 'assigned');
  const state = result.registrationState || result;
  assert.equal(state.assignedHub, host);
  assert.equal(state.deviceId, 'tpm-device');
  assert.deepEqual((await registry.getTwin('tpm-device')).responseBody.tags, { tpm: true });

  // The TPM signs the hub's tokens with the key that came in the second blob.
  const expiry = Math.floor(Date.now() / 1000) + 3600;
  const resource = encodeURIComponent(`${host}/devices/tpm-device`);
  const mac = await sign(security, `${resource}\n${expiry}`);
  const { symmetricKey } = (await registry.get('tpm-device')).responseBody.authentication;
  assert.equal(Buffer.from(symmetricKey.primaryKey, 'base64').length, 32);
  const token = `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(mac.toString('base64'))}&se=${expiry}`;
  assert.equal(SharedAccessSignature.parse(token).sr, resource);
  const device = Client.fromSharedAccessSignature(token, Mqtt);
  device.setRetryPolicy(new NoRetry());
  cleanup(() => device.close());
  await within('the connection', device.open());
  const stream = await telemetry('tpm-device');
  await device.sendEvent(new Message('"from a TPM"'));
  assert.equal((await stream.next()).body, 'from a TPM');
  await device.close();

  // It comes again.
  const again = await register(security);
  assert.equal((again.registrationState || again).deviceId, 'tpm-device');
  assert.notEqual((await registry.get('tpm-device')).responseBody.authentication.symmetricKey.primaryKey, symmetricKey.primaryKey);

  // The enrollment is turned off: no challenge any more.
  await service.createOrUpdateIndividualEnrollment({ ...enrollment, provisioningStatus: 'disabled' });
  assert.match((await rejected(register(security))).message, /authentication blob/);
});

test('another TPM\'s endorsement key is refused', [], async () => {
  const security = client('tpm-of-somebody-else');
  const key = await ask(security, 'getEndorsementKey');
  key[100] ^= 1; // inside the modulus
  await service.createOrUpdateIndividualEnrollment({ registrationId: 'tpm-of-somebody-else', attestation: { type: 'tpm', tpm: { endorsementKey: key.toString('base64') } } });
  assert.match((await rejected(register(security))).message, /authentication blob/);
});

test('the SDK itself refuses a TPM over MQTT', [], async () => {
  assert.throws(() => ProvisioningDeviceClient.create(hostname, idScope, new ProvisioningMqtt(), client('x')), /does not support TPM/);
});
