//! shipbell turns what a container registry says into webhooks that people can rely on.
//!
//! ```text
//! registry ──POST /events──▶ ingest ──▶ journal ──fsync──▶ 202
//!                                          │
//!                                   queue, in memory, one per repository
//!                                          │  the batch window closes
//!                                   sizing  ◀── registry API, only for what is unknown
//!                                          │
//!            one lane per (repository, endpoint): attempt → retry → settled ──▶ journal
//! ```
//!
//! Data goes one way, and the modules below stand in the order in which it travels. Each stage knows the
//! next one by a small interface, and nothing upstream of itself; [`app`] alone knows them all.
//!
//! # Invariants
//! 1. A 202 implies that the push is behind a completed fdatasync ([`journal`]).
//! 2. Journal first, memory second. Pushes are ordered by the sequence number they got when taken; they
//!    are applied to the queues in that order before anybody is answered.
//! 3. A push is settled per endpoint, once; the endpoints that owe it stand in its record ([`queue`]).
//! 4. A `webhook-id` is a function of the journal's identity, the sequence number and the endpoint, so it is
//!    the same at every attempt and after every crash ([`webhook::sign`]).
//! 5. The registry is never needed to take a push, nor an endpoint to take or deliver another's
//!    ([`dispatch`]).
//! 6. No map guard and no lock lives across an `.await`, but for an endpoint's turn, whose waiting is its
//!    purpose. Due work comes from a timer heap.
//! 7. Every wait has a deadline, every queue a bound, every body a cap.
//! 8. Policies (filter, window, retry, pace, health) are pure functions of state and time; the caller sleeps and
//!    does I/O.

pub mod app;
pub mod cli;
pub mod config;

// 1 taken
pub mod image;
pub mod ingest;
pub mod listener;
pub mod push;

// 2 kept
pub mod journal;
pub mod queue;
pub mod settings;

// 3 sized
pub mod registry;
pub mod sizing;

// 4 delivered
pub mod dispatch;
pub mod webhook;

// 5 shown
pub mod admin;
pub mod catalog;
pub mod ops;
pub mod telemetry;

// around
pub mod clock;
mod folder;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod glob;
pub mod json;
pub mod lifecycle;
mod locked;
pub mod secret;
mod sqlite;
pub mod stamp;
mod trust;
