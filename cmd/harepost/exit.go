package main

import (
	"errors"
	"fmt"
	"net/http"
)

// Exit statuses, see the package comment.
const (
	exitOK            = 0
	exitFailed        = 1
	exitUsage         = 2
	exitStorageFailed = 3
	exitRefused       = 4
	exitNotNow        = 5
	exitUndelivered   = 6
	exitStillPending  = 7
	exitNotFound      = 8
	exitConflict      = 9
	exitNotAllowed    = 10
	exitExpelled      = 11
)

// An exitError ends the program with a status of its own.
type exitError struct {
	status int
	err    error // nil: there is nothing left to say
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exitWith gives err a status. A nil err ends the program silently with it.
func exitWith(status int, err error) error { return &exitError{status: status, err: err} }

// usagef is an error in how the command was called.
func usagef(format string, args ...any) error {
	return exitWith(exitUsage, fmt.Errorf(format, args...))
}

// refusalStatuses are the exit statuses of answers that a script may want to
// tell from others. What is not here is exitRefused, or exitNotNow from 500 on.
var refusalStatuses = map[int]int{
	http.StatusUnauthorized:    exitNotAllowed,
	http.StatusForbidden:       exitNotAllowed,
	http.StatusNotFound:        exitNotFound,
	http.StatusConflict:        exitConflict,
	http.StatusTooManyRequests: exitNotNow,
}

// statusOf is the status a command that returned err ends with.
func statusOf(err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.status
	}
	return exitFailed
}

// silent tells whether everything there is to say has been said.
func silent(err error) bool {
	e, ok := errors.AsType[*exitError](err)
	return ok && e.err == nil
}
