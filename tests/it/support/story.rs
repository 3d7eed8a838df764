//! What `shipbell why` tells of a push.

use std::{path::Path, process::Command, time::Duration};

use serde_json::Value;

use super::{eventually, shipbell::Shipbell};

/// The newest push of `image`, as JSON, if anything is known of it.
pub(crate) fn push(image: &str, data: &Path) -> Option<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shipbell"));
    command
        .args(["why", image, "--output", "json", "--data-dir"])
        .arg(data);
    let output = command.env_clear().output().unwrap();
    let is_known = output.status.code() == Some(0);
    is_known.then(|| serde_json::from_slice::<Value>(&output.stdout).unwrap()["pushes"][0].take())
}

/// That attempt, from 0, to deliver the newest push of `image`, once it is written down.
pub(crate) fn attempt(shipbell: &Shipbell, image: &str, index: usize, deadline: Duration) -> Value {
    let data = shipbell.data();
    eventually(&format!("attempt {index} of {image}"), deadline, || {
        let push = push(image, &data)?;
        push["deliveries"].get(0)?["attempts"].get(index).cloned()
    })
}
