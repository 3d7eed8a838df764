//! Indexes that list what is not there, or can't be had.

use super::*;

/// An index of an image and of another manifest, which nobody has, and the image.
fn sparse(os: &str) -> (Made, Made, Made) {
    let there = Made::image(("c1", 1), &[("l1", 10)]);
    let other = Made::image(("c2", 2), &[("l2", 20)]);
    let index = Made::index(&[(&there, "linux"), (&other, os)]);
    (index, there, other)
}

#[tokio::test]
async fn what_the_registry_surely_does_not_have_counts_nothing_in_any_number() {
    for os in ["linux", "unknown"] {
        let bench = Bench::start().await;
        let (index, there, missing) = sparse(os);
        bench.fake.put(&repository(), &there);
        // Another repository has it: that is no help here.
        bench.fake.put(&other(), &missing);
        bench.push("v1", &index);
        let sizes = bench.size(pushed(&index)).await;
        assert_eq!((sizes.image_size, sizes.repository_size), (None, None));
        pass(GONE_AFTER).await;
        for _ in 0..2 {
            let sizes = bench.size(pushed(&index)).await;
            assert_eq!(sizes.image_size, Some(11));
            assert_eq!(names(&sizes), layers(&[("l1", 10)]));
            assert_eq!(sizes.repository_size, Some(11 + there.bytes() + index.bytes()));
        }
    }
}

#[tokio::test]
async fn what_is_not_there_counts_nothing_at_once_if_it_was_deleted_or_all_was_heard() {
    for is_emptied in [true, false] {
        let bench = Bench::start().await;
        let (index, there, missing) = sparse("linux");
        bench.sizing.apply(&if is_emptied {
            Change::RepositoryDeleted {
                repository: repository(),
            }
        } else {
            deleted(&missing.digest)
        });
        bench.fake.put(&repository(), &there);
        bench.push("v1", &index);
        let sizes = bench.size(pushed(&index)).await;
        assert_eq!(sizes.image_size, Some(11));
        assert_eq!(sizes.repository_size, Some(11 + there.bytes() + index.bytes()));
    }
}

#[tokio::test]
async fn what_was_pushed_and_is_not_there_costs_the_numbers_that_need_it_and_the_layers_where_it_shows() {
    for (os, shown) in [("linux", layers(&[])), ("unknown", layers(&[("l1", 10)]))] {
        let bench = Bench::start().await;
        let (index, there, missing) = sparse(os);
        bench.fake.put(&repository(), &there);
        bench.sizing.apply(&held(&missing.digest));
        bench.push("v1", &index);
        let sizes = bench.size_by(pushed(&index), 1_000).await;
        assert_eq!((sizes.image_size, sizes.repository_size), (None, None), "{os}");
        assert_eq!(names(&sizes), shown, "{os}");
    }
}

#[tokio::test]
async fn an_attestation_that_comes_too_late_costs_no_layers() {
    let bench = Bench::start().await;
    let (index, there, attestation) = sparse("unknown");
    bench.fake.put(&repository(), &there);
    bench.push("v1", &index);
    bench
        .fake
        .hang_at(&format!("/v2/acme/app/manifests/{}", attestation.digest));
    let sizes = bench.size_by(pushed(&index), 500).await;
    assert_eq!((sizes.image_size, sizes.repository_size), (None, None));
    assert_eq!(names(&sizes), layers(&[("l1", 10)]));
}

#[tokio::test]
async fn an_image_that_is_not_there_itself_has_no_numbers() {
    let bench = Bench::start().await;
    let (index, _, _) = sparse("linux");
    let sizes = bench.size(pushed(&index)).await;
    assert_eq!((sizes.image_size, sizes.layers.len()), (None, 0));
}
