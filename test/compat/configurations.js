'use strict';

// azure-iothub's Registry: automatic configurations and edge deployments.

const { Registry } = require('azure-iothub');
const { assert, connection, poll, raw, rejected, test, unique } = require('./harness');

const registry = Registry.fromConnectionString(connection.hub.connectionString);
const version = 'api-version=2021-04-12';

async function device(tags, more = {}) {
  const deviceId = unique('conf');
  await registry.create({ deviceId, ...more });
  await registry.updateTwin(deviceId, { tags }, '*');
  return deviceId;
}

const get = async (id) => (await registry.getConfiguration(id)).responseBody;
const twin = async (deviceId) => (await registry.getTwin(deviceId)).responseBody;
const moduleTwin = async (deviceId, moduleId) => (await registry.getModuleTwin(deviceId, moduleId)).responseBody;

async function refused(promise, status, code) {
  const error = await rejected(promise);
  assert.equal(error.response.statusCode, status, error.stack);
  assert.equal(error.response.headers['iothub-errorcode'], code);
}

function bare({ $metadata, $version, ...rest }) {
  return rest;
}

const same = (a, b) => { try { assert.deepEqual(a, b); return true; } catch { return false; } };

test('create, read, list, update and delete', ['HS-078', 'HS-079'], async () => {
  const id = unique('crud');
  const content = { deviceContent: { 'properties.desired.chiller': { temperature: 66.5, list: [1, { a: null }] } } };
  const { responseBody: made, httpResponse } = await registry.addConfiguration({
    id, content, targetCondition: "tags.site = 'nowhere'", priority: 20, labels: { customer: 'c' },
    metrics: { queries: { all: 'SELECT deviceId FROM devices' } },
  });
  assert.ok([200, 201].includes(httpResponse.statusCode));
  assert.equal(made.id, id);
  assert.equal(made.schemaVersion, '1.0');
  const read = await get(id);
  assert.deepEqual(read.content.deviceContent, content.deviceContent);
  assert.deepEqual(read.labels, { customer: 'c' });
  assert.equal(read.etag, 'MQ==');
  await refused(registry.addConfiguration({ id, content, targetCondition: '*', priority: 1 }), 409, 'ConfigurationAlreadyExists');
  assert.ok((await registry.getConfigurations()).responseBody.some((c) => c.id === id));

  const { responseBody: changed } = await registry.updateConfiguration({ ...read, priority: 30, targetCondition: "tags.site = 'elsewhere'" });
  assert.equal(changed.priority, 30);
  assert.notEqual(changed.etag, read.etag);
  await refused(registry.updateConfiguration({ ...read, priority: 31 }), 412, 'PreconditionFailed');
  await registry.updateConfiguration({ ...read, priority: 31 }, true);
  await refused(registry.updateConfiguration({ ...read, content: { deviceContent: { 'properties.desired.other': 1 } } }, true), 400, 'CannotModifyImmutableConfigurationContent');
  assert.equal((await get(id)).priority, 31);
  const judged = (await raw('POST', `/configurations/testQueries?${version}`, { body: { targetCondition: 'tags.x ==', customMetricQueries: { good: 'select deviceId from devices', bad: 'selekt' } } })).json();
  assert.ok(judged.targetConditionError);
  assert.deepEqual(Object.keys(judged.customMetricQueryErrors), ['bad']);

  const { httpResponse: gone } = await registry.removeConfiguration(id);
  assert.equal(gone.statusCode, 204);
  await refused(registry.getConfiguration(id), 404, 'ConfigurationNotFound');
});

test('priority, leaving and coming back, and what queries and metrics say', ['HS-080', 'HS-081'], async () => {
  const site = unique('site');
  const deviceId = await device({ site });
  const [low, high] = [unique('low'), unique('high')];
  const desired = (want) => poll(`desired ${JSON.stringify(want)}`, async () => same(bare((await twin(deviceId)).properties.desired), want), 20_000);
  await registry.addConfiguration({ id: low, content: { deviceContent: { 'properties.desired.fan': { speed: 1 } } }, targetCondition: `tags.site = '${site}'`, priority: 1 });
  await desired({ fan: { speed: 1 } });
  const { $metadata } = (await twin(deviceId)).properties.desired;
  assert.equal($metadata.fan.$lastUpdatedBy, low);
  await registry.addConfiguration({ id: high, content: { deviceContent: { 'properties.desired.fan.speed': 2 } }, targetCondition: `tags.site = '${site}' AND NOT is_defined(tags.calm)`, priority: 2 });
  await desired({ fan: { speed: 2 } });
  const query = async (text) => (await registry.createQuery(text).next()).result;
  assert.deepEqual(await query(`SELECT deviceId FROM devices WHERE configurations.[[${high}]].status = 'Applied' AND configurations.[[${low}]].status = 'Targeted'`), [{ deviceId }]);
  const { systemMetrics } = await poll('results', async () => {
    const c = await get(high);
    return c.systemMetrics.results.appliedCount === 1 && c.systemMetrics.results.targetedCount === 1 && c;
  }, 20_000);
  assert.deepEqual(systemMetrics.queries, {
    targetedCount: `select deviceId from devices where tags.site = '${site}' AND NOT is_defined(tags.calm)`,
    appliedCount: `select deviceId from devices where configurations.[[${high}]].status = 'Applied'`,
  });
  for (const text of Object.values(systemMetrics.queries)) {
    assert.deepEqual(await query(text), [{ deviceId }]);
  }
  await registry.updateTwin(deviceId, { tags: { calm: true } }, '*');
  await desired({ fan: { speed: 1 } });
  await registry.updateTwin(deviceId, { tags: { calm: null } }, '*');
  await desired({ fan: { speed: 2 } });
  await registry.removeConfiguration(high);
  await desired({ fan: { speed: 1 } });
  await registry.removeConfiguration(low);
  await desired({});
});

test('an edge deployment with layers', ['HS-082'], async () => {
  const site = unique('site');
  const deviceId = await device({ site }, { capabilities: { iotEdge: true } });
  const [base, layer] = [unique('base'), unique('layer')];
  await registry.addConfiguration({
    id: base, priority: 10, targetCondition: `tags.site = '${site}'`,
    content: { modulesContent: {
      $edgeAgent: { 'properties.desired': { schemaVersion: '1.1', modules: { sensor: { type: 'docker' } } } },
      $edgeHub: { 'properties.desired': { schemaVersion: '1.1', routes: {} } },
      sensor: { 'properties.desired': { interval: 5 } },
    } },
  });
  await poll('the module', async () => (await registry.getModulesOnDevice(deviceId)).responseBody.some((m) => m.moduleId === 'sensor'), 20_000);
  await poll('its settings', async () => same(bare((await moduleTwin(deviceId, 'sensor')).properties.desired), { interval: 5 }), 20_000);
  assert.equal((await registry.getModule(deviceId, 'sensor')).responseBody.managedBy, 'iotEdge');
  await registry.addConfiguration({
    id: layer, priority: 11, targetCondition: `tags.site = '${site}'`,
    content: { modulesContent: { $edgeAgent: { 'properties.desired.modules.filter': { type: 'docker' } }, sensor: { 'properties.desired.limits.high': 9 } } },
  });
  await poll('both combined', async () => same(bare((await moduleTwin(deviceId, 'sensor')).properties.desired), { interval: 5, limits: { high: 9 } })
    && same(bare((await moduleTwin(deviceId, '$edgeAgent')).properties.desired), { schemaVersion: '1.1', modules: { sensor: { type: 'docker' }, filter: { type: 'docker' } } }), 20_000);
  assert.ok((await registry.getModulesOnDevice(deviceId)).responseBody.some((m) => m.moduleId === 'filter'));
  for (const id of [layer, base]) {
    await registry.removeConfiguration(id);
  }
});

test('content for one device, once', ['HS-083'], async () => {
  const deviceId = await device({}, { capabilities: { iotEdge: true } });
  const { httpResponse } = await registry.applyConfigurationContentOnDevice(deviceId, { modulesContent: {
    $edgeAgent: { 'properties.desired': { modules: { a: {} } } }, $edgeHub: { 'properties.desired': {} }, a: { 'properties.desired': { x: 1 } },
  } });
  assert.equal(httpResponse.statusCode, 204);
  assert.deepEqual((await registry.getModulesOnDevice(deviceId)).responseBody.map((m) => m.moduleId).sort(), ['$edgeAgent', '$edgeHub', 'a']);
  assert.deepEqual(bare((await moduleTwin(deviceId, 'a')).properties.desired), { x: 1 });
});
