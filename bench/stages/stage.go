package stages

// A Stage is a part of a delivery's way, or of what is done beside it.
type Stage string

// The stages, in the order of [All].
const (
	ReadRequest Stage = "read request" // the connection: wait, read, parse HTTP
	Decode      Stage = "decode"       // route, authenticate, decode JSON, parse the target
	Accept      Stage = "accept"       // check, make the command, wait until it is durable
	Log         Stage = "log"          // queue, pack, write, sync
	Apply       Stage = "apply"        // to the state, down to Pebble's memtable; wake the senders
	Answer      Stage = "answer"       // make the answer and write it
	Schedule    Stage = "schedule"     // lanes, turns, workers, their lock
	Outbound    Stage = "outbound"     // load, connection, head, write, wait, parse
	Record      Stage = "record"       // encode the attempt, queue it for the log
	Background  Stage = "background"   // flushes, compactions, keepers
	Runtime     Stage = "runtime"      // Go's scheduler, netpoll, garbage collection
	Other       Stage = "other"        // what no rule places
)

// All are all stages, in the order of a table.
var All = []Stage{
	ReadRequest, Decode, Accept, Log, Apply, Answer, Schedule, Outbound, Record, Background, Runtime, Other,
}
