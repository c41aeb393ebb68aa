// Check says whether histories of calls on one session are linearizable, using porcupine.
//
// It reads a JSON list of histories, each a list of calls, from standard input, and prints a verdict per history, one a
// line: "Ok", "Illegal", or "Unknown" after a minute of search.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// A request names what it writes, uniquely: turns, a field or a run. A repeated request has the names of the first one.
type request struct {
	Kind     string
	Names    []string
	Expected *int // The turn count or the version that the caller expects, if any.
}

// A reply has lists as text, separated by spaces, so that replies are comparable.
type reply struct {
	Number  int // The turn count or the version.
	Run     int // The number of the caller's run.
	Outcome string
	reading
	Turns  string
	Fields string
	Runs   string // Newest first, each with its state.
}

type reading struct {
	Current int // The number of the run whose notes are current, or 0.
	Latest  int // The number of the latest run, or 0.
	Behind  int // The drift of the current notes in turns, or -1.
}

type call struct {
	Client         int
	Sent, Received int64
	request
	Reply *reply // Nil if it was lost. Then the call took effect at any time after it was sent, or never.
}

type run struct {
	name, state string
	turns       int // The turns in its snapshot, or 0 without a snapshot.
}

type session struct {
	turns, fields []string
	runs          []run // Run 1 first.
	current       int   // The number of the run whose notes are current, or 0.
}

// Step returns the state of the session after a request, and the reply. It does not change the slices of the state before.
func step(s session, r request) (session, reply) {
	switch r.Kind {
	case "append":
		if first := slices.Index(s.turns, r.Names[0]); first >= 0 {
			return s, reply{Number: first + len(r.Names), Outcome: "DUPLICATE"}
		}
		if r.Expected != nil && *r.Expected != len(s.turns) {
			return s, reply{Number: len(s.turns), Outcome: "MISMATCH"}
		}
		s.turns = slices.Concat(s.turns, r.Names)
		return s, reply{Number: len(s.turns), Outcome: "OK"}
	case "update":
		if r.Expected != nil && *r.Expected != len(s.fields) {
			return s, reply{Number: len(s.fields), Outcome: "MISMATCH"}
		}
		s.fields = slices.Concat(s.fields, r.Names)
		return s, reply{Number: len(s.fields), Outcome: "OK"}
	case "begin":
		i := s.start(r.Names[0], len(s.turns))
		return s, reply{Run: i + 1, Turns: text(s.turns[:s.runs[i].turns]), reading: s.read()}
	case "write":
		i := s.start(r.Names[0], 0)
		outcome := s.write(i)
		return s, reply{Run: i + 1, Outcome: outcome}
	case "get notes":
		return s, reply{reading: s.read()}
	case "get session":
		return s, reply{Number: len(s.fields), Turns: text(s.turns), Fields: text(slices.Sorted(slices.Values(s.fields)))}
	case "list runs":
		var runs []string
		for _, run := range slices.Backward(s.runs) {
			runs = append(runs, run.name+":"+run.state)
		}
		return s, reply{Runs: text(runs)}
	}
	panic("unknown call: " + r.Kind)
}

// Start returns the index of a run, which it starts unless it exists.
func (s *session) start(name string, turns int) int {
	i := slices.IndexFunc(s.runs, func(run run) bool { return run.name == name })
	if i < 0 {
		i = len(s.runs)
		s.runs = append(slices.Clip(s.runs), run{name, "RUNNING", turns})
	}
	return i
}

func (s *session) read() reading {
	behind := -1
	if s.current > 0 && s.runs[s.current-1].turns > 0 {
		behind = len(s.turns) - s.runs[s.current-1].turns
	}
	return reading{s.current, len(s.runs), behind}
}

// Write ends a run, unless it has ended, and returns the outcome.
func (s *session) write(i int) string {
	if s.runs[i].state != "RUNNING" {
		return "DUPLICATE"
	}
	s.runs = slices.Clone(s.runs)
	if i+1 < s.current {
		s.runs[i].state = "SUPERSEDED"
		return "SUPERSEDED"
	}
	s.runs[i].state = "WRITTEN"
	s.current = i + 1
	return "ACCEPTED"
}

func text(names []string) string {
	return strings.Join(names, " ")
}

var model = porcupine.Model{
	Init: func() any { return session{} },
	Step: func(state, input, output any) (bool, any) {
		after, expected := step(state.(session), input.(request))
		actual := output.(*reply)
		return actual == nil || *actual == expected, after
	},
	Equal: reflect.DeepEqual,
}

func main() {
	var histories [][]call
	if err := json.NewDecoder(os.Stdin).Decode(&histories); err != nil {
		log.Fatal(err)
	}
	for _, history := range histories {
		var operations []porcupine.Operation
		for _, c := range history {
			if c.Reply == nil {
				c.Received = math.MaxInt64
			}
			operations = append(operations, porcupine.Operation{
				ClientId: c.Client, Call: c.Sent, Return: c.Received, Input: c.request, Output: c.Reply,
			})
		}
		fmt.Println(porcupine.CheckOperationsTimeout(model, operations, time.Minute))
	}
}
