//! shipbell turns what a container registry says into webhooks people can rely on.

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

// 3 sized
pub mod registry;
pub mod sizing;

// 4 delivered
pub mod dispatch;
pub mod webhook;

// 5 shown
pub mod ops;
pub mod telemetry;

// around
pub mod clock;
pub mod lifecycle;
pub mod secret;
