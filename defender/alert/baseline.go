package alert

// Types of alerts about deviations from the baseline of a security group. They are ours: Azure has none.
const (
	BaselinePeer    = "IoT_BaselineUnexpectedPeer"
	BaselinePort    = "IoT_BaselineUnexpectedService"
	BaselineTime    = "IoT_BaselineUnusualTime"
	BaselineVolume  = "IoT_BaselineUnusualVolume"
	BaselineRate    = "IoT_BaselineUnusualRate"
	BaselineQuiet   = "IoT_BaselineDeviceQuiet"
	BaselineProcess = "IoT_BaselineUnexpectedProcess"
	BaselineUser    = "IoT_BaselineUnexpectedUser"
)

const stepsBaseline = "When the device is meant to do so, accept it with vauban baseline edit (--add-peer takes the indicator of the alert, --add-process, --add-user or --limit the others), or learn anew."

// baselineTypes are those of deviations from baselines.
var baselineTypes = []Type{
	{BaselinePeer, "Connection with a peer that the baseline does not have", Medium, one(tacticCommandAndControl), many("T0885", "T1071"), many(stepsBlock, stepsSoftware, stepsBaseline)},
	{BaselinePort, "Another service of a known peer than the baseline has", Medium, many(tacticLateralMovement, tacticCommandAndControl), many("T0885", "T0886", "T1571"), many(stepsBlock, stepsSoftware, stepsBaseline)},
	{BaselineTime, "Connection at an unusual time", Medium, one(tacticCommandAndControl), many("T0885", "T1029"), many(stepsWho, stepsBaseline)},
	{BaselineVolume, "More traffic in an hour than the baseline has", Medium, one(tacticImpact), many("T0882", "T1048"), many(stepsBlock, stepsSoftware, stepsBaseline)},
	{BaselineRate, "More messages in an hour than the baseline has", Medium, one(tacticInhibitResponse), many("T0814", "T1499"), many(stepsSoftware, stepsBaseline)},
	{BaselineQuiet, "Device is quieter than usual", Low, one(tacticInhibitResponse), many("T0815", "T1489"), many("Look whether the device has power and a network.", stepsWho)},
	{BaselineProcess, "Program that the baseline does not have", Medium, one(tacticExecution), many("T0807", "T1059"), many(stepsWho, stepsSoftware, stepsBaseline)},
	{BaselineUser, "Login by a user whom the baseline does not have", Medium, many(tacticPersistence, tacticLateralMovement), many("T0859", "T1078"), many(stepsWho, stepsBaseline)},
}
