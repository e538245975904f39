'use strict';

// azure-iot-provisioning-service: enrollments, groups and registration records.

const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Mqtt } = require('azure-iot-provisioning-device-mqtt');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { X509Certificate } = require('node:crypto');
const { assert, certificates, connection, host, rejected, test, unique } = require('./harness');

const service = ProvisioningServiceClient.fromConnectionString(connection.dps.connectionString);
const someKey = (n) => Buffer.alloc(64, n).toString('base64');
const symmetric = (n) => ({ type: 'symmetricKey', symmetricKey: { primaryKey: someKey(n), secondaryKey: someKey(n + 1) } });

async function refused(promise, name, status, code) {
  const error = await rejected(promise);
  assert.equal(error.name, name, error.stack);
  assert.equal(error.response.statusCode, status);
  assert.match(error.response.headers['content-type'], /application\/json/);
  assert.equal(error.response.headers['x-ms-error-code'], String(code));
  const body = JSON.parse(error.responseBody);
  assert.equal(body.errorCode, code);
  assert.match(body.message, /./);
  assert.match(body.trackingId, /^[0-9a-f-]{36}$/);
  assert.ok(Math.abs(Date.parse(body.timestampUtc) - Date.now()) < 60_000);
}

// kinds are the two halves of the API, which are alike.
const kinds = {
  individual: {
    id: 'registrationId',
    list: 'enrollments',
    put: (e) => service.createOrUpdateIndividualEnrollment(e),
    get: (id) => service.getIndividualEnrollment(id),
    del: (...a) => service.deleteIndividualEnrollment(...a),
    query: (size) => service.createIndividualEnrollmentQuery({ query: 'SELECT *' }, size),
    keys: (id) => service.getIndividualEnrollmentAttestationMechanism(id),
  },
  group: {
    id: 'enrollmentGroupId',
    list: 'enrollmentGroups',
    put: (e) => service.createOrUpdateEnrollmentGroup(e),
    get: (id) => service.getEnrollmentGroup(id),
    del: (...a) => service.deleteEnrollmentGroup(...a),
    query: (size) => service.createEnrollmentGroupQuery({ query: 'SELECT *' }, size),
    keys: (id) => service.getEnrollmentGroupAttestationMechanism(id),
  },
};

for (const [kind, api] of Object.entries(kinds)) {
  test(`${kind}: create, get, update, delete`, [], async () => {
    const id = unique(kind);
    const written = {
      [api.id]: id, attestation: symmetric(1), provisioningStatus: 'enabled', allocationPolicy: 'static', iotHubs: [host],
      capabilities: { iotEdge: true }, initialTwin: { tags: { a: 1 }, properties: { desired: { b: { c: 'é&<>' } } } },
      reprovisionPolicy: { updateHubAssignment: false, migrateDeviceData: false },
    };
    const { responseBody: created, httpResponse } = await api.put(written);
    assert.equal(httpResponse.statusCode, 200);
    assert.match(httpResponse.headers['content-type'], /application\/json/);
    const { attestation, ...members } = written;
    for (const [member, value] of Object.entries(members)) {
      assert.deepEqual(created[member], value, member);
    }
    assert.deepEqual(created.attestation, { type: 'symmetricKey' }); // keys are not read back
    assert.match(created.etag, /./);
    assert.match(created.createdDateTimeUtc, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z$/);
    assert.equal(created.createdDateTimeUtc, created.lastUpdatedDateTimeUtc);
    const { responseBody: got } = await api.get(id);
    assert.deepEqual(got, created);
    assert.deepEqual((await api.keys(id)).responseBody, attestation);

    // A read written back with its etag changes what was changed and keeps the keys.
    got.provisioningStatus = 'disabled';
    const { responseBody: updated } = await api.put(got);
    assert.equal(updated.provisioningStatus, 'disabled');
    assert.notEqual(updated.etag, created.etag);
    assert.equal(updated.createdDateTimeUtc, created.createdDateTimeUtc);
    assert.deepEqual(updated.initialTwin, created.initialTwin);
    assert.deepEqual((await api.keys(id)).responseBody, attestation);
    await refused(api.put({ ...got, provisioningStatus: 'enabled' }), 'InvalidEtagError', 412, 412001);
    assert.equal((await api.get(id)).responseBody.provisioningStatus, 'disabled');
    const { responseBody: forced } = await api.put({ [api.id]: id, attestation: symmetric(3) }); // without an etag
    assert.equal(forced.provisioningStatus, 'enabled');
    assert.deepEqual((await api.keys(id)).responseBody, symmetric(3));

    await refused(api.del(id, created.etag), 'InvalidEtagError', 412, 412001);
    await refused(api.del({ ...created }), 'InvalidEtagError', 412, 412001);
    assert.equal(await api.del({ ...forced }), undefined);
    await refused(api.get(id), 'Error', 404, 404001);
    await refused(api.del(id), 'Error', 404, 404001);
    await refused(api.keys(id), 'Error', 404, 404001);
    await refused(api.put({ ...forced, attestation: symmetric(1) }), 'InvalidEtagError', 412, 412001); // an etag of nothing
    await api.put(written);
    await api.del(id);
  });

  test(`${kind}: missing keys are made`, [], async () => {
    const id = unique(kind);
    await api.put({ [api.id]: id, attestation: { type: 'symmetricKey' } });
    const { responseBody: made } = await api.keys(id);
    assert.equal(made.type, 'symmetricKey');
    assert.equal(Buffer.from(made.symmetricKey.primaryKey, 'base64').length, 64);
    assert.equal(Buffer.from(made.symmetricKey.secondaryKey, 'base64').length, 64);
    assert.notEqual(made.symmetricKey.primaryKey, made.symmetricKey.secondaryKey);
    await api.del(id);
  });

  test(`${kind}: certificates`, [], async () => {
    const id = kind === 'individual' ? 'self-1' : unique(kind);
    const text = kind === 'individual' ? certificates['self-1'].leaf : certificates['plant-ca'];
    const member = kind === 'individual' ? 'clientCertificates' : 'signingCertificates';
    const cert = new X509Certificate(text);
    await api.put({ [api.id]: id, attestation: { type: 'x509', x509: { [member]: { primary: { certificate: text } } } } });
    const { responseBody: got } = await api.get(id);
    assert.equal(got.attestation.type, 'x509');
    const { info, certificate } = got.attestation.x509[member].primary;
    assert.equal(certificate, undefined);
    assert.equal(info.sha1Thumbprint.toUpperCase(), cert.fingerprint.replaceAll(':', ''));
    assert.equal(info.sha256Thumbprint.toUpperCase(), cert.fingerprint256.replaceAll(':', ''));
    assert.match(info.subjectName, kind === 'individual' ? /CN=self-1/ : /CN=plant root/);
    assert.equal(Date.parse(info.notAfterUtc), Date.parse(cert.validTo));
    // What was read can be written back: the certificate stays.
    const { responseBody: again } = await api.put({ ...got, provisioningStatus: 'disabled' });
    assert.deepEqual(again.attestation, got.attestation);
    assert.equal((await api.keys(id)).responseBody.type, 'x509');
    await api.del(id);
  });

  test(`${kind}: what cannot be is refused`, [], async () => {
    const id = unique(kind);
    for (const e of [
      {}, { attestation: { type: 'none' } }, { attestation: { type: 'tpm', tpm: { endorsementKey: 'AA==' } } },
      { attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: 'c2hvcnQ=' } } },
      { attestation: { type: 'x509', x509: {} } }, { attestation: symmetric(1), iotHubHostName: 'other.example.net' },
      { attestation: symmetric(1), provisioningStatus: 'maybe' }, { attestation: symmetric(1), allocationPolicy: 'custom' },
      { attestation: symmetric(1), initialTwin: { tags: 1 } },
    ]) {
      await refused(api.put({ [api.id]: id, ...e }), 'ArgumentError', 400, 400004);
    }
    await refused(api.put({ [api.id]: 'a b', attestation: symmetric(1) }), 'ArgumentError', 400, 400004);
    await refused(api.get(id), 'Error', 404, 404001);
  });

  test(`${kind}: queries page to the end`, [], async () => {
    const ids = Array.from({ length: 5 }, () => unique(`page-${kind}`)).sort();
    for (const id of ids) {
      await api.put({ [api.id]: id, attestation: symmetric(1) });
    }
    for (const size of [1, 2, 100, undefined]) {
      const query = api.query(size);
      const seen = [];
      while (query.hasMoreResults) {
        const { responseBody: page, httpResponse } = await query.next(query.continuationToken); // next() alone would begin again
        assert.equal(httpResponse.statusCode, 200);
        assert.match(httpResponse.headers['x-ms-item-type'], /./);
        assert.ok(page.length <= (size ?? 100));
        seen.push(...page.map((e) => e[api.id]));
        assert.ok(seen.length < 1000, 'the query ends');
      }
      assert.deepEqual(seen.filter((id) => ids.includes(id)), ids);
      assert.equal(new Set(seen).size, seen.length);
    }
    for (const id of ids) {
      await api.del(id);
    }
  });
}

test('bulk: rows succeed and fail one by one', [], async () => {
  // The package answers this call only to a callback.
  const bulk = (mode, enrollments) => new Promise((resolve, reject) => {
    service.runBulkEnrollmentOperation({ mode, enrollments }, (err, result) => (err ? reject(err) : resolve(result)));
  });
  const [a, b, c] = [unique('bulk'), unique('bulk'), unique('bulk')];
  const row = (registrationId, n, more) => ({ registrationId, attestation: symmetric(n), ...more });
  assert.deepEqual(await bulk('create', [row(a, 1), row(b, 1)]), { isSuccessful: true, errors: [] });
  const partly = await bulk('create', [row(b, 2), row(c, 2)]);
  assert.equal(partly.isSuccessful, false);
  assert.equal(partly.errors.length, 1);
  assert.equal(partly.errors[0].registrationId, b);
  assert.equal(partly.errors[0].errorCode, 409001);
  assert.match(partly.errors[0].errorStatus, /./);
  assert.deepEqual((await service.getIndividualEnrollmentAttestationMechanism(b)).responseBody, symmetric(1));
  assert.equal((await bulk('update', [row(a, 5), row(b, 5), row(c, 5)])).isSuccessful, true);
  assert.deepEqual((await service.getIndividualEnrollmentAttestationMechanism(c)).responseBody, symmetric(5));
  const { etag } = (await service.getIndividualEnrollment(a)).responseBody;
  const matched = await bulk('updateIfMatchETag', [row(a, 7, { etag }), row(b, 7, { etag: 'stale' })]);
  assert.deepEqual(matched.errors.map((e) => [e.registrationId, e.errorCode]), [[b, 412001]]);
  assert.equal((await bulk('delete', [{ registrationId: a }, { registrationId: b }, { registrationId: c }])).isSuccessful, true);
  await refused(service.getIndividualEnrollment(a), 'Error', 404, 404001);
  await refused(bulk('create', Array.from({ length: 11 }, (_, n) => row(`over-${n}`, 1))), 'ArgumentError', 400, 400004);
});

test('registration records: read, listed, deleted', [], async () => {
  const registrationId = unique('record');
  await service.createOrUpdateIndividualEnrollment({ registrationId, attestation: symmetric(1) });
  await refused(service.getDeviceRegistrationState(registrationId), 'Error', 404, 404001);
  assert.equal('registrationState' in (await service.getIndividualEnrollment(registrationId)).responseBody, false);
  const device = ProvisioningDeviceClient.create(connection.dps.hostname, connection.dps.idScope, new Mqtt(), new SymmetricKeySecurityClient(registrationId, someKey(1)));
  await device.register();
  const { responseBody: state } = await service.getDeviceRegistrationState(registrationId);
  assert.equal(state.registrationId, registrationId);
  assert.equal(state.status, 'assigned');
  assert.equal(state.assignedHub, host);
  assert.equal(state.deviceId, registrationId);
  assert.equal((await service.getIndividualEnrollment(registrationId)).responseBody.registrationState.status, 'assigned');
  await refused(service.deleteDeviceRegistrationState(registrationId, 'stale'), 'InvalidEtagError', 412, 412001);
  assert.equal(await service.deleteDeviceRegistrationState(state), undefined);
  await refused(service.getDeviceRegistrationState(registrationId), 'Error', 404, 404001);
  await refused(service.deleteDeviceRegistrationState(registrationId), 'Error', 404, 404001);
});

test('credentials: a wrong key is refused', [], async () => {
  const stranger = ProvisioningServiceClient.fromConnectionString(`HostName=${host};SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=${someKey(9)}`);
  await refused(stranger.getIndividualEnrollment('x'), 'UnauthorizedError', 401, 401002);
  const unknown = ProvisioningServiceClient.fromConnectionString(`HostName=${host};SharedAccessKeyName=iothubowner;SharedAccessKey=${someKey(9)}`);
  await refused(unknown.createEnrollmentGroupQuery({ query: 'SELECT *' }).next(), 'UnauthorizedError', 401, 401002);
});
