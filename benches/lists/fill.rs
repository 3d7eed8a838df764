//! What there is to list, written into the files as the program itself would have.

use std::path::Path;

use anyhow::ensure;
use rusqlite::{Connection, params};

use crate::{ADMIN, EACH_MS, JOURNAL, JOURNAL_NUMBER, MONO, OLDEST, server::ask};

/// A history, as the program itself would have written it.
pub(crate) fn history(path: &Path, now: i64, deliveries: u32, repositories: u32) -> anyhow::Result<()> {
    let mut database = Connection::open(path)?;
    let transaction = database.transaction()?;
    transaction.execute(
        "INSERT INTO journals VALUES (?1, ?2)",
        params![JOURNAL_NUMBER, JOURNAL],
    )?;
    let base = JOURNAL_NUMBER << 44;
    transaction.execute_batch(&format!(
        "CREATE TEMP TABLE n AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {deliveries}),
           own(n, name) AS (SELECT n, 'team' || (n / 2 % {repositories} % 100) || '/app' || (n / 2 % {repositories}) FROM c)
           SELECT n, CASE WHEN n % 2 = 0 THEN '{MONO}' ELSE name END AS repository,
             CASE WHEN n <= {OLDEST} AND n % 2 = 0 THEN 'old' WHEN n % 3 > 0 THEN 'ci'
               WHEN n % 2 = 0 THEN 'repository:{MONO}' ELSE 'repository:' || name END AS endpoint,
             CASE WHEN n <= {OLDEST} AND n % 2 = 0 THEN 'unknown' WHEN n % 50 = 1 THEN 'dead_letter'
               WHEN n % 77 = 0 THEN 'superseded' ELSE 'delivered' END AS state,
             {now} - ({deliveries} - n) * {EACH_MS} AS taken_at FROM own;
         INSERT INTO repositories VALUES ('{MONO}', {now}, 'v1', {deliveries} / 2, 1000000, {now});
         WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {repositories})
         INSERT INTO repositories
           SELECT 'team' || (n % {repositories} % 100) || '/app' || (n % {repositories}), {now} - 60000, 'v1', 5,
             1000000 + n * 37 % 900000000, {now} - 60000 FROM c;
         INSERT INTO pushes
           SELECT {base} + n, n, repository, 'v' || (n % 50), 'sha256:' || hex(zeroblob(32)),
             'application/vnd.oci.image.manifest.v1+json', 1024, 3, taken_at, 'event-' || n, 'ci' FROM n;
         INSERT INTO spans SELECT id >> 10, min(taken_at), max(taken_at) FROM pushes GROUP BY id >> 10;
         INSERT INTO deliveries (push, endpoint, repository, webhook_id, state, ended_at, attempts, image_size, layers,
             repository_size)
           SELECT {base} + n, endpoint, repository, 'msg_' || n, state, taken_at + 2000, 1, 5000000, 5, 100000000 FROM n;
         INSERT INTO attempts (push, endpoint, number, at, elapsed_us, status, fault, reason, url, headers, body,
             body_bytes, answer, answer_bytes)
           SELECT {base} + n, endpoint, 1, taken_at + 1000, 12000, CASE WHEN n % 50 = 1 THEN 404 ELSE 200 END,
             CASE WHEN n % 50 = 1 THEN 'push' END, CASE WHEN n % 50 = 1 THEN 'answered 404 Not Found' END,
             'https://ci.example.com/hook?…', 'User-Agent: WebHook Handler', CAST(zeroblob(300) AS BLOB), 300,
             CAST('ok' AS BLOB), 2 FROM n;
         DROP TABLE n;"
    ))?;
    transaction.commit()?;
    database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}

/// A webhook of its own for each repository.
pub(crate) fn settings(path: &Path, repositories: u32) -> anyhow::Result<()> {
    let database = Connection::open(path)?;
    database.execute_batch(&format!(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {repositories})
         INSERT INTO repository_webhooks
           SELECT 'team' || (n % {repositories} % 100) || '/app' || (n % {repositories}),
             'https://ci.example.com/hook?token=' || n, NULL, NULL, NULL, 'native', '[]', '[\"**\"]', n, 0, 'bench'
           FROM c"
    ))?;
    Ok(())
}

/// Dead letters: half of them of one repository, for one endpoint; of the others one in a thousand for the endpoint `rare`.
pub(crate) fn letters(path: &Path, now: i64, letters: u32, repositories: u32) -> anyhow::Result<()> {
    let mut database = Connection::open(path)?;
    let transaction = database.transaction()?;
    transaction.execute_batch(&format!(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {letters})
         INSERT INTO dead_letters (journal, sequence, endpoint, repository, tag, digest, media_type, manifest_size, listed,
             event_id, actor, taken_ms, died_ms, reason, attempts)
           SELECT '{JOURNAL}', n, CASE WHEN n % 2 = 0 THEN 'ci' WHEN n % 1000 = 1 THEN 'rare' ELSE 'old' END,
             CASE WHEN n % 2 = 0 THEN '{MONO}'
               ELSE 'team' || (n / 2 % {repositories} % 100) || '/app' || (n / 2 % {repositories}) END,
             CASE WHEN n % 3 = 0 THEN 'latest' ELSE 'v' || (n % 50) END, 'sha256:' || lower(hex(zeroblob(32))),
             'application/vnd.oci.image.manifest.v1+json', 1024,
             '[{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"size\":7023,\"digest\":\"sha256:'
               || lower(hex(zeroblob(32))) || '\"}}]', 'event-' || n, 'robot',
             {now} - ({letters} - n) * {EACH_MS} - 5000, {now} - ({letters} - n) * {EACH_MS}, 'answered 404 Not Found', 7
           FROM c"
    ))?;
    transaction.commit()?;
    Ok(())
}

/// Pushes of so many repositories, which wait for an endpoint that is on hold.
pub(crate) fn queue(ingest: u16, admin: u16, repositories: u32) -> anyhow::Result<()> {
    let (status, _) = ask(admin, ADMIN, "POST", "/api/v1/endpoints/ci/hold", "")?;
    ensure!(status == 200, "the endpoint is not on hold: {status}");
    for begin in (0..repositories).step_by(200) {
        let events: Vec<_> = (begin..(begin + 200).min(repositories))
            .map(|number| {
                serde_json::json!({
                    "id": format!("waits-{number}"), "action": "push",
                    "target": {
                        "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1024, "length": 1024,
                        "digest": format!("sha256:{number:064x}"), "tag": "v1",
                        "repository": format!("team{}/app{number}", number % 100),
                    },
                })
            })
            .collect();
        let envelope = serde_json::json!({ "events": events }).to_string();
        let (status, _) = ask(ingest, "", "POST", "/events", &envelope)?;
        ensure!(status == 202, "pushes are not taken: {status}");
    }
    Ok(())
}
