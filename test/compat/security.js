'use strict';

// @azure/arm-security: IoT security solutions, analytics and security groups of devices, whose API version is 2019-08-01.

const { SecurityCenter } = require('@azure/arm-security');
const { Client: Device, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Registry } = require('azure-iothub');
const { ask, assert, cleanup, connection, host, poll, rejected, test } = require('./harness');

const subscription = '20ff7fc3-e762-44dd-bd96-b71116dcdc23';
const group = 'MyGroup';
const hub = `/subscriptions/${subscription}/resourceGroups/${group}/providers/Microsoft.Devices/IotHubs/${host}`;
const workspace = `/subscriptions/${subscription}/resourceGroups/${group}/providers/Microsoft.OperationalInsights/workspaces/w`;
const registry = Registry.fromConnectionString(connection.hub.connectionString);

// A credential of ms-rest-js signs requests.
const holder = (token) => ({
  signRequest: async (request) => {
    request.headers.set('authorization', `Bearer ${token}`);
    return request;
  },
});
const client = (token = connection.api.token) => new SecurityCenter(holder(token), subscription, 'global', { baseUri: connection.api.url.replace(/\/$/, '') });
const security = client();
const { iotSecuritySolution: solutions, iotSecuritySolutionAnalytics: analytics, iotSecuritySolutionsAnalyticsAggregatedAlert: aggregates } = security;

const whole = {
  location: 'East Us',
  tags: { site: 'north' },
  displayName: 'Solution Default',
  workspace,
  iotHubs: [hub],
  status: 'Enabled',
  exportProperty: [],
  disabledDataSources: [],
  userDefinedResources: { query: 'where type != "microsoft.devices/iothubs" | where name contains "iot"', querySubscriptions: [subscription] },
  recommendationsConfiguration: [{ recommendationType: 'IoT_OpenPorts', status: 'Disabled' }, { recommendationType: 'IoT_SharedCredentials', status: 'Enabled' }],
};
const status = (s, type) => s.recommendationsConfiguration.find((r) => r.recommendationType === type).status;

// flows makes a device send count security messages that break the rule of its group.
async function flows(deviceId, count) {
  const { responseBody } = await registry.create({ deviceId });
  const device = Device.fromConnectionString(`HostName=${host};DeviceId=${deviceId};SharedAccessKey=${responseBody.authentication.symmetricKey.primaryKey}`, Mqtt);
  cleanup(() => device.close());
  await device.open();
  for (let i = 0; i < count; i++) {
    const now = new Date().toISOString();
    const message = new Message(JSON.stringify({
      AgentVersion: '0.0.5', AgentId: '00000000-0000-4000-8000-000000000001', MessageSchemaVersion: '1.0',
      Events: [{
        EventType: 'Security', Category: 'Triggered', Name: 'ConnectionCreate', IsEmpty: false, PayloadSchemaVersion: '1.0', Id: `00000000-0000-4000-8000-00000000000${i}`,
        TimestampLocal: now, TimestampUTC: now,
        Payload: [{ RemoteAddress: '192.0.2.77', RemotePort: '443', LocalAddress: '10.0.0.1', LocalPort: '50000', Direction: 'Out', Protocol: 'TCP', ProcessId: 7, Executable: '/bin/x', CommandLine: 'x --now' }],
      }],
    }));
    message.setAsSecurityMessage();
    await device.sendEvent(message);
  }
}

test('a solution is made, read, changed and deleted', ['DEF-25'], async () => {
  const made = await solutions.createOrUpdate(group, 'default', whole);
  assert.equal(made._response.status, 201);
  assert.equal(made.id, `/subscriptions/${subscription}/resourceGroups/${group}/providers/Microsoft.Security/iotSecuritySolutions/default`);
  assert.deepEqual([made.name, made.type, made.location, made.status, made.workspace], ['default', 'Microsoft.Security/iotSecuritySolutions', 'East Us', 'Enabled', workspace]);
  assert.deepEqual([made.iotHubs, made.autoDiscoveredResources, made.exportProperty, made.disabledDataSources], [[hub], [hub], [], []]);
  assert.deepEqual(made.userDefinedResources, whole.userDefinedResources);
  assert.deepEqual([status(made, 'IoT_OpenPorts'), status(made, 'IoT_SharedCredentials'), status(made, 'IoT_Baseline')], ['Disabled', 'Enabled', 'Enabled']);
  assert.equal((await solutions.createOrUpdate(group, 'default', whole))._response.status, 200);
  assert.deepEqual((await solutions.get(group, 'DEFAULT')).tags, { site: 'north' });
  assert.equal((await solutions.listBySubscription()).length, 1);
  assert.equal((await solutions.listBySubscription({ filter: `properties.iotHubs/any(i eq "${hub}")` })).length, 1);
  assert.equal((await solutions.listBySubscription({ filter: `properties.iotHubs/any(i eq "${hub}2")` })).length, 0);
  assert.equal((await solutions.listByResourceGroup(group)).length, 1);
  assert.equal((await solutions.listByResourceGroup('other')).length, 0);

  const changed = await solutions.update(group, 'default', { tags: { site: 'south' }, recommendationsConfiguration: [{ recommendationType: 'IoT_OpenPorts', status: 'Enabled' }] });
  assert.deepEqual([changed.tags, changed.displayName, status(changed, 'IoT_OpenPorts')], [{ site: 'south' }, 'Solution Default', 'Enabled']);
  assert.equal((await solutions.deleteMethod(group, 'default'))._response.status, 200);
  assert.equal((await solutions.deleteMethod(group, 'default'))._response.status, 204);
  const gone = await rejected(solutions.get(group, 'default'));
  assert.deepEqual([gone.statusCode, gone.code], [404, 'ResourceNotFound']);
});

test('what a solution cannot be is refused in words', [], async () => {
  for (const [change, words] of [
    [{ status: 'Disabled' }, 'cannot be Disabled'], [{ exportProperty: ['RawEvents'] }, 'no workspace to export'], [{ disabledDataSources: ['TwinData'] }, 'disable the types'],
    [{ iotHubs: [`${hub}2`] }, "not the id of this installation's hub"],
  ]) {
    const e = await rejected(solutions.createOrUpdate(group, 'default', { ...whole, ...change }));
    assert.deepEqual([e.statusCode, e.code], [400, 'InvalidParameter']);
    assert.ok(e.message.includes(words), e.message);
  }
  assert.deepEqual(await rejected(client('nonsense').iotSecuritySolution.listBySubscription()).then((e) => [e.statusCode, e.code]), [401, 'AuthenticationFailed']);
});

test('security groups of the hub', ['DEF-25'], async () => {
  const groups = security.deviceSecurityGroups;
  const body = {
    timeWindowRules: [{ ruleType: 'ActiveConnectionsNotInAllowedRange', isEnabled: true, minThreshold: 0, maxThreshold: 30, timeWindowSize: 'PT05M' }],
    allowlistRules: [{ ruleType: 'ConnectionToIpNotAllowed', isEnabled: true, allowlistValues: ['10.0.0.0/8'] }],
  };
  assert.deepEqual((await groups.list(hub)).map((g) => g.name), ['default']);
  const made = await groups.createOrUpdate(hub, 'plant', body);
  assert.equal(made._response.status, 201);
  assert.equal((await groups.createOrUpdate(hub, 'plant', body))._response.status, 200);
  const read = await groups.get(hub, 'plant');
  assert.equal(read.id, `${hub}/providers/Microsoft.Security/deviceSecurityGroups/plant`);
  assert.equal(read.timeWindowRules.length, 16);
  const rule = read.timeWindowRules.find((r) => r.ruleType === 'ActiveConnectionsNotInAllowedRange');
  assert.deepEqual([rule.isEnabled, rule.maxThreshold, rule.timeWindowSize], [true, 30, 'PT05M']);
  assert.deepEqual(read.allowlistRules.find((r) => r.ruleType === 'ConnectionToIpNotAllowed').allowlistValues, ['10.0.0.0/8']);
  assert.deepEqual((await groups.list(hub)).map((g) => g.name), ['default', 'plant']);
  assert.equal((await groups.deleteMethod(hub, 'plant'))._response.status, 200);
  assert.equal((await groups.deleteMethod(hub, 'plant'))._response.status, 204);
  assert.equal((await rejected(groups.list(`${hub}2`))).statusCode, 404);
});

test('alerts are counted, and a dismissed day stays dismissed', ['DEF-25', 'DEF-26'], async () => {
  await solutions.createOrUpdate(group, 'default', whole);
  await security.deviceSecurityGroups.createOrUpdate(hub, 'default', { allowlistRules: [{ ruleType: 'ConnectionToIpNotAllowed', isEnabled: true, allowlistValues: ['10.0.0.0/8'] }] });
  await flows('first', 3);
  await flows('second', 1);
  const type = 'IoT_CA_ConnectionToIpNotAllowed';
  const [aggregate] = await poll('the aggregate', async () => {
    const all = await aggregates.list(group, 'default');
    return all.length === 1 && all[0].count === 4 && all;
  });
  assert.deepEqual([aggregate.alertType, aggregate.reportedSeverity, aggregate.actionTaken, aggregate.effectedResourceType], [type, 'Low', 'Detected', 'IoT Device']);
  assert.ok(aggregate.aggregatedDateUtc instanceof Date && aggregate.remediationSteps && aggregate.description && aggregate.logAnalyticsQuery.includes(type));
  assert.equal(aggregate.name, `${type}/${aggregate.aggregatedDateUtc.toISOString().slice(0, 10)}`);
  assert.deepEqual(aggregate.topDevicesList.map((d) => [d.deviceId, d.alertsCount]), [['first', 3], ['second', 1]]);
  assert.deepEqual((await aggregates.get(group, 'default', aggregate.name)).count, 4);

  const model = await analytics.get(group, 'default');
  assert.deepEqual(model.metrics, { high: 0, medium: 0, low: 2 });
  assert.deepEqual(model.devicesMetrics, [{ date: aggregate.aggregatedDateUtc, devicesMetrics: { high: 0, medium: 0, low: 2 } }]);
  assert.deepEqual(model.topAlertedDevices, [{ deviceId: 'first', alertsCount: 1 }, { deviceId: 'second', alertsCount: 1 }]);
  assert.deepEqual(model.mostPrevalentDeviceAlerts.map((a) => [a.reportedSeverity, a.alertsCount]), [['Low', 2]]);
  assert.equal((await analytics.list(group, 'default')).value.length, 1);

  await aggregates.dismiss(group, 'default', aggregate.name);
  assert.equal((await aggregates.list(group, 'default')).length, 0);
  await ask('restart');
  await flows('third', 1);
  await poll('the alert of the third device', async () => (await aggregates.get(group, 'default', aggregate.name)).count === 5);
  assert.equal((await aggregates.list(group, 'default')).length, 0);
  assert.equal((await aggregates.get(group, 'default', aggregate.name)).actionTaken, 'Dismissed');
  assert.deepEqual((await analytics.get(group, 'default')).metrics, { high: 0, medium: 0, low: 0 });
});

test('recommendations are counted by type', [], async () => {
  const recommendations = security.iotSecuritySolutionsAnalyticsRecommendation;
  const all = await poll('recommendations', async () => {
    const list = await recommendations.list(group, 'default');
    return list.length > 0 && list;
  }, 30_000);
  const one = await recommendations.get(group, 'default', all[0].name);
  assert.deepEqual([one.recommendationName, one.unhealthyDeviceCount], [all[0].recommendationName, all[0].unhealthyDeviceCount]);
  assert.ok(one.recommendationDisplayName && one.recommendationTypeId && one.remediationSteps);
  assert.equal((await recommendations.list(group, 'default', { top: 1 })).length, 1);
});
