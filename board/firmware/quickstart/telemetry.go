package quickstart

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/vauban-iot/vauban/board/firmware"
	"github.com/vauban-iot/vauban/board/stm32l475"
	"github.com/vauban-iot/vauban/sdk/device"
)

// open prepares what is on the board.
func (r *run) open() {
	if err := r.board.GPIO.Configure(stm32l475.LED2, stm32l475.Output, stm32l475.NoPull); err != nil {
		panic(err)
	}
	s := &r.sensors
	for _, d := range [...]struct {
		name string
		open func() error
	}{
		{"HTS221", func() error { return s.climate.Open(r.board.I2C) }}, {"LPS22HB", func() error { return s.pressure.Open(r.board.I2C) }},
		{"LIS3MDL", func() error { return s.field.Open(r.board.I2C) }}, {"LSM6DSL", func() error { return s.motion.Open(r.board.I2C) }},
	} {
		if err := d.open(); err != nil {
			r.printf("ERROR: %s: %v\n", d.name, err)
		}
	}
}

// client is the thread that reports and sends telemetry.
func (r *run) client(uint32) {
	for {
		events := r.wait(evOnline | evTick)
		if events&evOnline != 0 {
			r.introduce()
		}
		if events&evTick != 0 {
			r.telemetry()
		}
	}
}

// pace lets the timer tick each interval from now on. A timer that runs already takes no new interval, so it is stopped first.
func (r *run) pace() {
	ticks := firmware.Ticks(r.k, r.interval)
	firmware.Must(r.timer.Deactivate())
	firmware.Must(r.timer.Change(ticks, ticks))
	firmware.Must(r.timer.Activate())
}

// introduce says what the device is, and how it is.
func (r *run) introduce() {
	for _, p := range []string{deviceInformation, ledState(r.led), acknowledged(r.seconds(), 200, 1)} { // version 1, whatever it is: as the original does
		if err := r.report(p); err != nil && !refused(err) {
			return
		}
	}
	r.backoff.Reset()
	r.printf("\nStarting the main loop\n")
}

const deviceInformation = `{"deviceInformation":{"__t":"c","manufacturer":"STMicroelectronics","model":"B-L475E-IOT01A","swVersion":"` + Version +
	`","osName":"Azure RTOS","processorArchitecture":"Arm Cortex M4","processorManufacturer":"STMicroelectronics","totalStorage":1024,"totalMemory":128}}`

// telemetry sends the next of the four messages.
func (r *run) telemetry() {
	if r.session == nil {
		return
	}
	body, err := r.measure(r.turn)
	if err != nil {
		r.printf("ERROR: a sensor: %v\n", err)
		r.turn = (r.turn + 1) % 4
		return
	}
	m := device.Message{Body: body}
	if !r.board.Config().RealTime && r.board.RTC.Valid() {
		m.Created = r.board.RTC.Time() // of a time that is not the machine's
	}
	if err := r.request(func(ctx context.Context, s *device.Session) error { return s.Send(ctx, m) }); err != nil {
		r.printf("ERROR: telemetry: %v\n", err)
		return
	}
	r.turn = (r.turn + 1) % 4
	r.printf("Telemetry message sent: %s.\n", body)
	r.tell(Event{Kind: Sent, Text: string(body)})
}

// measure reads the sensors of a message.
func (r *run) measure(turn int) ([]byte, error) {
	s := &r.sensors
	b := make([]byte, 0, 96)
	switch turn {
	case 0:
		humidity, err := s.climate.Humidity()
		if err != nil {
			return nil, fmt.Errorf("humidity: %w", err)
		}
		temperature, err := s.climate.Temperature()
		if err != nil {
			return nil, fmt.Errorf("temperature: %w", err)
		}
		pressure, err := s.pressure.Pressure()
		if err != nil {
			return nil, fmt.Errorf("pressure: %w", err)
		}
		b = appendNumber(append(b, `{"humidity":`...), humidity)
		b = appendNumber(append(b, `,"temperature":`...), temperature)
		b = appendNumber(append(b, `,"pressure":`...), pressure)
		return append(b, '}'), nil
	case 1:
		xyz, err := s.field.Field()
		return appendVector(b, "magnetometer", whole(xyz)), err
	case 2:
		xyz, err := s.motion.Acceleration()
		return appendVector(b, "accelerometer", whole(xyz)), err
	default:
		xyz, err := s.motion.Rotation()
		return appendVector(b, "gyroscope", xyz), err
	}
}

// whole is a vector as the board support package gives it, in int16.
func whole(v [3]float64) [3]float64 {
	for i := range v {
		v[i] = float64(int16(max(min(v[i], math.MaxInt16), math.MinInt16)))
	}
	return v
}

func appendVector(b []byte, name string, v [3]float64) []byte {
	for i, axis := range [...]byte{'X', 'Y', 'Z'} {
		b = append(b, "{,"[min(i, 1)], '"')
		b = append(append(b, name...), axis, '"', ':')
		b = appendNumber(b, v[i])
	}
	return append(b, '}')
}

// appendNumber writes two decimals at most; what comes after them is cut off, as the firmware's JSON writer does.
func appendNumber(b []byte, v float64) []byte {
	v = math.Trunc(v*100) / 100
	if v == 0 {
		v = 0 // and never -0
	}
	return strconv.AppendFloat(b, v, 'f', -1, 64)
}

// seconds is the interval as the model has it.
func (r *run) seconds() int64 { return int64(r.interval / time.Second) }

func (r *run) report(patch string) error {
	r.printf("Sending property: %s\n", patch)
	err := r.request(func(ctx context.Context, s *device.Session) error {
		_, err := s.Report(ctx, rawJSON(patch))
		return err
	})
	if err != nil {
		r.printf("ERROR: the property: %v\n", err)
	}
	return err
}

type rawJSON string

func (j rawJSON) MarshalJSON() ([]byte, error) { return []byte(j), nil }

func ledState(on bool) string { return `{"ledState":` + strconv.FormatBool(on) + `}` }

func acknowledged(seconds int64, code int, version int64) string {
	return fmt.Sprintf(`{"telemetryInterval":{"ac":%d,"av":%d,"value":%d}}`, code, version, seconds)
}

// begin is the start of a session: the twin says how it goes on.
func (r *run) begin() {
	twin, _ := r.session.Twin()
	r.printf("Received properties: %s\n", twin.Desired)
	if seconds, given, ok := parseInterval(twin.Desired); given && ok {
		r.interval = time.Duration(seconds) * time.Second
		r.printf("\ttelemetryInterval is %d\n", seconds)
	}
	r.pace()
	r.set(evOnline)
}
