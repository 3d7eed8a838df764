//! The floor under the deliveries: a bare client, a process of its own. It asks nobody whether it may, knows no
//! order, signs nothing, tries nothing twice, and keeps of each delivery a record and a row.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rusqlite::Connection;
use tokio::{runtime::Runtime, task::JoinSet};

use super::deliveries::IN_FLIGHT;

const SYNC_EVERY: Duration = Duration::from_millis(100);
const ROWS_AT_ONCE: usize = 1_000;
const RECORD_BYTES: usize = 64;

/// A delivery that is over.
struct Done {
    number: u64,
    status: u16,
    body: Bytes,
}

/// Sends, and prints how many seconds it took.
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let [url, count, folder] = arguments else {
        bail!("a URL, a count and a folder");
    };
    let (uri, count, folder): (Uri, u64, _) = (url.parse()?, count.parse()?, Path::new(folder));
    let journal = OpenOptions::new()
        .append(true)
        .create_new(true)
        .open(folder.join("records"))?;
    let journal = Arc::new(Mutex::new(journal));
    let (rows, done) = channel();
    let connection = open(folder)?;
    let began = Instant::now();
    let writer = thread::spawn(move || write_rows(connection, &done));
    let syncer = thread::spawn({
        let journal = Arc::clone(&journal);
        move || sync(&journal)
    });
    Runtime::new()?.block_on(send_all(uri, count, &journal, rows))?;
    // The sender is gone: the writer ends with what it has.
    writer.join().ok().context("the writer failed")??;
    journal
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .sync_data()?;
    drop(journal);
    syncer.join().ok().context("the syncer failed")??;
    println!("{}", began.elapsed().as_secs_f64());
    Ok(())
}

fn open(folder: &Path) -> anyhow::Result<Connection> {
    let connection = Connection::open(folder.join("rows.db"))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; \
         CREATE TABLE deliveries (number INTEGER PRIMARY KEY, status INTEGER, body BLOB) STRICT;",
    )?;
    Ok(connection)
}

async fn send_all(
    uri: Uri,
    count: u64,
    journal: &Arc<Mutex<File>>,
    rows: Sender<Done>,
) -> anyhow::Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(IN_FLIGHT)
        .build(connector);
    let next = Arc::new(AtomicU64::new(0));
    let mut senders = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (uri, client, next) = (uri.clone(), client.clone(), Arc::clone(&next));
        let (journal, rows) = (Arc::clone(journal), rows.clone());
        senders.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                let done = send(&client, &uri, number).await?;
                append(&journal, number)?;
                rows.send(done)?;
            }
        });
    }
    drop(rows);
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    Ok(())
}

async fn send(client: &Client<HttpConnector, Full<Bytes>>, uri: &Uri, number: u64) -> anyhow::Result<Done> {
    let image = format!("team/service-{:06}:v1.{:06}", number % 10_000, number / 10_000);
    let body = Bytes::from(serde_json::to_vec(&serde_json::json!({
        "image": image,
        "image_size": 3_261_843,
        "layers": [{
            "digest": format!("sha256:{number:064x}"),
            "size": 3_259_190,
            "media_type": "application/vnd.oci.image.layer.v1.tar+gzip",
        }],
        "repository": image.split(':').next(),
        "repository_size": null,
        "event": "push",
        "timestamp": "2026-11-23T09:08:38.473Z",
    }))?);
    let request = http::Request::post(uri.clone())
        .header(header::USER_AGENT, "WebHook Handler")
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-alin-webhook", image)
        .header("webhook-id", format!("msg_{number:032x}"))
        .body(Full::new(body.clone()))?;
    let response = client.request(request).await?;
    let status = response.status().as_u16();
    response.into_body().collect().await?;
    Ok(Done { number, status, body })
}

fn append(journal: &Mutex<File>, number: u64) -> anyhow::Result<()> {
    let mut record = [0; RECORD_BYTES];
    let (sum, rest) = record.split_first_chunk_mut().context("room")?;
    rest.fill(u8::try_from(number % 251)?);
    *sum = crc32c::crc32c(rest).to_le_bytes();
    let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(journal.write_all(&record)?)
}

/// Until nobody else has the file.
fn sync(journal: &Arc<Mutex<File>>) -> anyhow::Result<()> {
    while Arc::strong_count(journal) > 1 {
        thread::sleep(SYNC_EVERY);
        let file = journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_clone()?;
        file.sync_data()?;
    }
    Ok(())
}

fn write_rows(mut connection: Connection, done: &Receiver<Done>) -> anyhow::Result<()> {
    while let Ok(first) = done.recv() {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO deliveries VALUES (?1, ?2, ?3)")?;
            for done in [first].into_iter().chain(done.try_iter().take(ROWS_AT_ONCE)) {
                let number = i64::try_from(done.number)?;
                ensure!(
                    insert.execute((number, done.status, &done.body[..]))? == 1,
                    "a row was not written"
                );
            }
        }
        transaction.commit()?;
    }
    Ok(())
}
