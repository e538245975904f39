package rtos

// Status is what a service answers, with ThreadX's numbers (rtos §2.3). It is an error whose
// zero value means success: use [Status.Err] where an error is wanted.
type Status uint32

// Status codes. StartError and NoMemory share a number in ThreadX: do not switch on the number
// alone across services.
const (
	Success           Status = 0x00
	Deleted           Status = 0x01 // the object went away while the caller waited
	PoolError         Status = 0x02
	PtrError          Status = 0x03
	WaitError         Status = 0x04 // waiting is not allowed where the call was made
	SizeError         Status = 0x05
	GroupError        Status = 0x06
	NoEvents          Status = 0x07
	OptionError       Status = 0x08
	QueueError        Status = 0x09
	QueueEmpty        Status = 0x0A
	QueueFull         Status = 0x0B
	SemaphoreError    Status = 0x0C
	NoInstance        Status = 0x0D
	ThreadError       Status = 0x0E
	PriorityError     Status = 0x0F
	NoMemory          Status = 0x10
	StartError        Status = 0x10
	DeleteError       Status = 0x11
	ResumeError       Status = 0x12
	CallerError       Status = 0x13 // the service may not be called from there
	SuspendError      Status = 0x14
	TimerError        Status = 0x15
	TickError         Status = 0x16
	ActivateError     Status = 0x17
	ThresholdError    Status = 0x18
	SuspendLifted     Status = 0x19
	WaitAborted       Status = 0x1A
	WaitAbortError    Status = 0x1B
	MutexError        Status = 0x1C
	NotAvailable      Status = 0x1D
	NotOwned          Status = 0x1E
	InheritError      Status = 0x1F
	NotDone           Status = 0x20
	CeilingExceeded   Status = 0x21
	InvalidCeiling    Status = 0x22
	FeatureNotEnabled Status = 0xFF
)

var statusWords = [...]string{
	"TX_SUCCESS", "TX_DELETED", "TX_POOL_ERROR", "TX_PTR_ERROR", "TX_WAIT_ERROR", "TX_SIZE_ERROR", "TX_GROUP_ERROR",
	"TX_NO_EVENTS", "TX_OPTION_ERROR", "TX_QUEUE_ERROR", "TX_QUEUE_EMPTY", "TX_QUEUE_FULL", "TX_SEMAPHORE_ERROR",
	"TX_NO_INSTANCE", "TX_THREAD_ERROR", "TX_PRIORITY_ERROR", "TX_NO_MEMORY", "TX_DELETE_ERROR", "TX_RESUME_ERROR",
	"TX_CALLER_ERROR", "TX_SUSPEND_ERROR", "TX_TIMER_ERROR", "TX_TICK_ERROR", "TX_ACTIVATE_ERROR", "TX_THRESH_ERROR",
	"TX_SUSPEND_LIFTED", "TX_WAIT_ABORTED", "TX_WAIT_ABORT_ERROR", "TX_MUTEX_ERROR", "TX_NOT_AVAILABLE", "TX_NOT_OWNED",
	"TX_INHERIT_ERROR", "TX_NOT_DONE", "TX_CEILING_EXCEEDED", "TX_INVALID_CEILING",
}

// String gives ThreadX's word, such as TX_NO_INSTANCE.
func (s Status) String() string {
	switch {
	case int(s) < len(statusWords):
		return statusWords[s]
	case s == FeatureNotEnabled:
		return "TX_FEATURE_NOT_ENABLED"
	}
	return "TX_UNKNOWN"
}

// Error makes a Status comparable with errors.Is: errors.Is(err, rtos.NoInstance).
func (s Status) Error() string { return "rtos: " + s.String() }

// Err is nil for Success and the status itself otherwise.
func (s Status) Err() error {
	if s == Success {
		return nil
	}
	return s
}

// State is a thread's state, with ThreadX's numbers (rtos §2.2).
type State uint8

// Thread states. IODriver, File and TCPIP belong to middleware that is not part of this kernel.
const (
	Ready              State = 0
	Completed          State = 1
	Terminated         State = 2
	Suspended          State = 3
	Sleeping           State = 4
	QueueSuspended     State = 5
	SemaphoreSuspended State = 6
	EventSuspended     State = 7
	BlockSuspended     State = 8
	ByteSuspended      State = 9
	IODriver           State = 10
	File               State = 11
	TCPIP              State = 12
	MutexSuspended     State = 13
	PriorityChange     State = 14 // for a moment only, while a ready thread moves to another list
)

var stateWords = [...]string{
	"TX_READY", "TX_COMPLETED", "TX_TERMINATED", "TX_SUSPENDED", "TX_SLEEP", "TX_QUEUE_SUSP", "TX_SEMAPHORE_SUSP",
	"TX_EVENT_FLAG", "TX_BLOCK_MEMORY", "TX_BYTE_MEMORY", "TX_IO_DRIVER", "TX_FILE", "TX_TCP_IP", "TX_MUTEX_SUSP",
	"TX_PRIORITY_CHANGE",
}

// String gives ThreadX's word, such as TX_READY.
func (s State) String() string {
	if int(s) < len(stateWords) {
		return stateWords[s]
	}
	return "TX_UNKNOWN"
}

// Options of services (rtos §2.1).
const (
	NoWait      uint32 = 0
	WaitForever uint32 = 0xFFFFFFFF

	// How event flags are asked for, and set.
	Or       uint32 = 0
	OrClear  uint32 = 1
	And      uint32 = 2
	AndClear uint32 = 3

	DontStart uint32 = 0
	AutoStart uint32 = 1

	NoActivate   uint32 = 0
	AutoActivate uint32 = 1

	NoInherit uint32 = 0
	Inherit   uint32 = 1

	NoTimeSlice uint32 = 0
)

// System states (rtos §2.1): zero while threads run, the nesting depth inside interrupts.
const (
	InitializeInProgress uint32 = 0xF0F0F0F0
	InitializeAlmostDone uint32 = 0xF0F0F0F1
)

// Control-block identifiers (rtos §2.4). An object without its own is not created.
const (
	threadID    uint32 = 0x54485244
	timerID     uint32 = 0x4154494D
	queueID     uint32 = 0x51554555
	semaphoreID uint32 = 0x53454D41
	mutexID     uint32 = 0x4D555445
	eventID     uint32 = 0x4456444E
	blockPoolID uint32 = 0x424C4F43
	bytePoolID  uint32 = 0x42595445
)
