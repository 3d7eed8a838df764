//! A repository as its tags come, move and go.

use super::*;

#[tokio::test]
async fn once_loaded_a_repository_of_2000_tags_is_sized_from_memory() {
    let bench = Bench::start().await;
    let mut expected = 0;
    for number in 0..2000_u64 {
        let (config, own) = (format!("c{number}"), format!("l{number}"));
        let image = Made::image((&config, 10), &[("base", 1000), (&own, 100)]);
        bench.fake.put(&repository(), &image);
        bench
            .fake
            .tag(&repository(), &format!("v{number}"), &image.digest);
        expected += 110 + image.bytes();
    }
    let image = Made::image(("new", 1), &[("base", 1000), ("l1", 100)]);
    bench.push("new", &image);
    let sizes = bench.size(pushed_with_references(&image)).await;
    assert_eq!(sizes.repository_size, Some(expected + 1000 + 1 + image.bytes()));
    assert_eq!(
        bench.fake.take_asked().len(),
        2001,
        "the list, and each other tag once"
    );

    let next = Made::image(("next", 2), &[("base", 1000)]);
    bench.sizing.apply(&tagged("next", &next.digest));
    let more = bench.size(pushed_with_references(&next)).await;
    assert_eq!(
        more.repository_size,
        Some(expected + 1000 + 1 + image.bytes() + 2 + next.bytes())
    );
    assert_eq!(bench.fake.calls(), 0);
}

#[tokio::test]
async fn a_batch_wants_each_manifest_and_the_tags_once() {
    let bench = Bench::start().await;
    let child = Made::image(("c", 1), &[("l", 10)]);
    bench.fake.put(&repository(), &child);
    let indexes: Vec<_> = (0..5)
        .map(|count| Made::index(&vec![(&child, "linux"); count + 1]))
        .collect();
    for (number, index) in indexes.iter().enumerate() {
        bench.push(&format!("v{number}"), index);
    }
    let images = indexes.iter().map(pushed).collect();
    let sizes = bench.sizing.size(&repository(), images, soon()).await;
    assert_eq!(sizes.len(), 5);
    assert!(sizes.iter().all(|sizes| sizes.image_size == Some(11)));
    let asked = bench.fake.take_asked();
    assert_eq!(asked.len(), 1 + 5 + 1, "{asked:?}");
}

#[tokio::test]
async fn tags_that_name_nothing_any_more_count_nothing() {
    let bench = Bench::start().await;
    let (image, gone) = (Made::image(("c", 1), &[]), Made::image(("x", 5), &[]));
    bench.fake.tag(&repository(), "listed", &gone.digest);
    bench.sizing.apply(&untagged("told-and-gone"));
    bench.push("v1", &image);
    let sizes = bench.size(pushed(&image)).await;
    assert_eq!(sizes.repository_size, Some(1 + image.bytes()));
    bench.fake.take_asked();
    bench.size(pushed(&image)).await;
    assert_eq!(bench.fake.calls(), 0, "and they are not asked for again");
}

#[tokio::test]
async fn retags_and_deletes_move_the_size_in_the_order_they_came() {
    let bench = Bench::start().await;
    let one = Made::image(("c1", 1), &[("l1", 10)]);
    let two = Made::image(("c2", 2), &[("l2", 20)]);
    let (size_1, size_2) = (11 + one.bytes(), 22 + two.bytes());
    bench.push("v1", &one);
    bench.push("v2", &two);
    let size = async || bench.size(pushed(&two)).await.repository_size;
    assert_eq!(size().await, Some(size_1 + size_2));
    bench.sizing.apply(&tagged("v1", &two.digest));
    assert_eq!(size().await, Some(size_2));
    bench.sizing.apply(&tagged("again", &one.digest));
    assert_eq!(size().await, Some(size_1 + size_2));
    bench.sizing.apply(&deleted(&one.digest));
    bench.sizing.apply(&untagged("again"));
    assert_eq!(size().await, Some(size_2));
    bench.sizing.apply(&tagged("again", &one.digest));
    assert_eq!(size().await, Some(size_1 + size_2));
    bench.sizing.apply(&untagged("again"));
    assert_eq!(size().await, Some(size_2));
    bench.sizing.apply(&untagged("v1"));
    bench.sizing.apply(&untagged("v2"));
    assert_eq!(
        size().await,
        Some(size_2),
        "what was pushed counts without its tag"
    );
}

#[tokio::test]
async fn a_pushed_image_that_was_deleted_before_the_sealing_counts_nothing() {
    let bench = Bench::start().await;
    let (kept, gone) = (Made::image(("c", 1), &[]), Made::image(("x", 5), &[]));
    bench.push("kept", &kept);
    bench.push("gone", &gone);
    bench.sizing.apply(&deleted(&gone.digest));
    bench.fake.untag(&repository(), "gone");
    bench.fake.remove(&repository(), &gone.digest);
    let sizes = bench.size(pushed_with_references(&gone)).await;
    assert_eq!(sizes.image_size, Some(5));
    assert_eq!(sizes.repository_size, Some(1 + kept.bytes()));
}

/// Time for a few questions for what is not there yet.
const LAGS_MS: u64 = 2_000;

#[tokio::test]
async fn a_registry_that_lags_behind_the_push_costs_the_repositorys_numbers_until_it_was_deleted_or_is_there()
{
    let bench = Bench::start().await;
    let (known, pushed_one) = (Made::image(("c", 1), &[]), Made::image(("x", 5), &[]));
    bench.push("known", &known);
    bench.size(pushed(&known)).await;
    bench.push("new", &pushed_one);
    bench.fake.remove(&repository(), &pushed_one.digest);
    for _ in 0..2 {
        let sizes = bench.size_by(pushed(&pushed_one), LAGS_MS).await;
        assert_eq!((sizes.image_size, sizes.repository_size), (None, None));
    }
    // Another image's number would be one without it.
    let sizes = bench.size(pushed(&known)).await;
    assert_eq!((sizes.image_size, sizes.repository_size), (Some(1), None));
    // That it was deleted explains it.
    bench.sizing.apply(&deleted(&pushed_one.digest));
    for image in [&pushed_one, &known] {
        let sizes = bench.size(pushed(image)).await;
        assert_eq!(sizes.repository_size, Some(1 + known.bytes()));
    }
    // It is there now, says the next event; and then that it was deleted.
    bench.push("new", &pushed_one);
    let both = Some(6 + known.bytes() + pushed_one.bytes());
    assert_eq!(bench.size(pushed(&pushed_one)).await.repository_size, both);
    bench.fake.untag(&repository(), "new");
    bench.fake.remove(&repository(), &pushed_one.digest);
    bench.sizing.apply(&deleted(&pushed_one.digest));
    let sizes = bench.size(pushed(&pushed_one)).await;
    assert_eq!(sizes.repository_size, Some(1 + known.bytes()));
}

#[tokio::test]
async fn what_was_pushed_and_comes_within_the_deadline_is_waited_for() {
    let bench = Bench::start().await;
    let child = Made::image(("x", 5), &[]);
    let index = Made::index(&[(&child, "linux")]);
    bench.sizing.apply(&held(&child.digest));
    bench.push("new", &index);
    bench.fake.remove(&repository(), &index.digest);
    let sizes = bench.size(pushed(&index));
    let appears = async {
        for made in [&index, &child] {
            bench.fake.take_asked();
            bench.asked(2).await;
            bench.fake.put(&repository(), made);
        }
    };
    let (sizes, ()) = join(sizes, appears).await;
    let all = Some(5 + child.bytes() + index.bytes());
    assert_eq!((sizes.image_size, sizes.repository_size), (Some(5), all));
}

#[tokio::test]
async fn what_is_deleted_while_it_is_waited_for_is_waited_for_no_longer() {
    let bench = Bench::start().await;
    let (known, gone) = (Made::image(("c", 1), &[]), Made::image(("x", 5), &[]));
    bench.push("known", &known);
    bench.sizing.apply(&tagged("gone", &gone.digest));
    let deleted = async {
        bench.asked(4).await;
        bench.sizing.apply(&deleted(&gone.digest));
    };
    let (sizes, ()) = join(bench.size(pushed(&known)), deleted).await;
    assert_eq!(
        sizes.repository_size, None,
        "it was there when the batch was sealed"
    );
    assert!(bench.fake.calls() <= 5, "{:?}", bench.fake.take_asked());
    let sizes = bench.size(pushed(&known)).await;
    assert_eq!(sizes.repository_size, Some(1 + known.bytes()));
}

#[tokio::test]
async fn a_registry_that_lags_once_is_asked_again_after_a_while() {
    let bench = Bench::start().await;
    let (known, child) = (Made::image(("c", 1), &[]), Made::image(("x", 5), &[]));
    let index = Made::index(&[(&child, "linux")]);
    bench.push("known", &known);
    bench.size(pushed(&known)).await;
    bench.sizing.apply(&held(&child.digest));
    bench.push("new", &index);
    // One of what was pushed, and then the other, is not there yet.
    for lagging in [&index, &child] {
        bench.fake.put(&repository(), &index);
        bench.fake.remove(&repository(), &lagging.digest);
        let sizes = bench.size_by(pushed(&index), LAGS_MS).await;
        assert_eq!(
            (sizes.image_size, sizes.repository_size),
            (None, None),
            "{lagging:?}"
        );
        bench.fake.put(&repository(), lagging);
        bench.fake.take_asked();
        let sizes = bench.size(pushed(&known)).await;
        assert_eq!(
            (sizes.repository_size, bench.fake.calls()),
            (None, 0),
            "not at once"
        );
        pass(BELIEVED_FIRST).await;
    }
    let all = Some(6 + known.bytes() + child.bytes() + index.bytes());
    assert_eq!(bench.size(pushed(&known)).await.repository_size, all);
    let sizes = bench.size(pushed(&index)).await;
    assert_eq!((sizes.image_size, sizes.repository_size), (Some(5), all));
    bench.fake.take_asked();
    bench.size(pushed(&index)).await;
    assert_eq!(bench.fake.calls(), 0);
}

#[tokio::test]
async fn what_was_missing_and_is_known_from_another_repository_is_found() {
    let bench = Bench::start().await;
    let image = Made::image(("x", 5), &[]);
    let index = Made::index(&[(&image, "linux")]);
    bench.push("v1", &image);
    bench.fake.remove(&repository(), &image.digest);
    let sizes = bench.size_by(pushed(&image), LAGS_MS).await;
    assert_eq!(sizes.repository_size, None);
    bench.fake.put(&repository(), &image);
    bench.fake.put(&other(), &image);
    bench.sizing.size(&other(), vec![pushed(&image)], soon()).await;
    pass(BELIEVED_FIRST).await;
    bench.push("v2", &index);
    let all = Some(5 + image.bytes() + index.bytes());
    assert_eq!(bench.size(pushed(&index)).await.repository_size, all);
}

#[tokio::test]
async fn what_is_in_front_of_a_registry_and_has_nothing_there_deletes_nothing() {
    let bench = Bench::start().await;
    let (known, new) = (Made::image(("c", 1), &[]), Made::image(("x", 5), &[]));
    bench.push("known", &known);
    bench.push("new", &new);
    bench
        .fake
        .hook(|_| Some(respond(404, &[], "404 page not found\n")));
    let sizes = bench.size_by(pushed(&new), 300).await;
    assert_eq!((sizes.image_size, sizes.repository_size), (None, None));
    bench.fake.hook(|_| None);
    pass(PROBE_PAUSE).await;
    let sizes = bench.size(pushed(&new)).await;
    let all = Some(6 + known.bytes() + new.bytes());
    assert_eq!((sizes.image_size, sizes.repository_size), (Some(5), all));
}

#[tokio::test]
async fn a_batch_sees_the_repository_as_of_its_sealing() {
    let bench = Bench::start().await;
    let one = Made::image(("c1", 1), &[]);
    let two = Made::image(("c2", 2), &[]);
    bench.push("v1", &one);
    let unknown_yet = bench.sizing.size(&repository(), vec![pushed(&one)], soon());
    bench.push("v2", &two);
    assert_eq!(unknown_yet.await[0].repository_size, Some(1 + one.bytes()));
    let both = Some(3 + one.bytes() + two.bytes());
    let loaded = bench.sizing.size(&repository(), vec![pushed(&one)], soon());
    bench.sizing.apply(&deleted(&two.digest));
    bench.sizing.apply(&tagged("v1", &two.digest));
    assert_eq!(loaded.await[0].repository_size, both);
}

#[tokio::test]
async fn changes_that_come_while_the_tags_are_read_win_over_them() {
    let bench = Bench::start().await;
    let manifests: Vec<_> = ["moved", "removed", "deleted", "kept", "new"]
        .map(|name| Made::image((name, 1), &[]))
        .into();
    for (name, manifest) in ["moved", "removed", "deleted", "kept"].iter().zip(&manifests) {
        bench.fake.put(&repository(), manifest);
        bench.fake.tag(&repository(), name, &manifest.digest);
    }
    let [_, _, doomed, kept, new] = manifests.as_slice() else {
        unreachable!()
    };
    bench.fake.put(&repository(), new);
    // The changes are applied at the moment when the last tag is answered.
    let (sizing, answered) = (bench.sizing.clone(), AtomicUsize::new(0));
    let (doomed, digest) = (doomed.digest.clone(), new.digest.clone());
    bench.fake.hook(move |asked| {
        if asked.path.contains("/manifests/") && answered.fetch_add(1, Ordering::Relaxed) == 3 {
            sizing.apply(&tagged("moved", &digest));
            sizing.apply(&untagged("removed"));
            sizing.apply(&deleted(&doomed));
        }
        None
    });
    bench.sizing.size(&repository(), vec![pushed(kept)], soon()).await;
    bench.fake.take_asked();
    let sizes = bench.size(pushed(kept)).await;
    assert_eq!(sizes.repository_size, Some(2 + kept.bytes() + new.bytes()));
}

#[tokio::test]
async fn a_deleted_repository_needs_no_list_and_grows_from_nothing() {
    let bench = Bench::start().await;
    let (old, new) = (Made::image(("old", 100), &[]), Made::image(("new", 1), &[]));
    bench.push("old", &old);
    bench.size(pushed(&old)).await;
    bench.sizing.apply(&Change::RepositoryDeleted {
        repository: repository(),
    });
    bench.sizing.apply(&tagged("new", &new.digest));
    bench.fake.take_asked();
    let sizes = bench.size(pushed_with_references(&new)).await;
    assert_eq!(sizes.repository_size, Some(1 + new.bytes()));
    assert_eq!(bench.fake.calls(), 0);
}

/// An image that was pushed and sized, and one of the same repository that was tagged since.
async fn with_a_tag_that_no_event_told(bench: &Bench) -> (Made, Made) {
    let (known, lost) = (Made::image(("c", 1), &[]), Made::image(("x", 5), &[]));
    bench.push("known", &known);
    let sizes = bench.size(pushed(&known)).await;
    assert_eq!(sizes.repository_size, Some(1 + known.bytes()));
    bench.fake.put(&repository(), &lost);
    bench.fake.tag(&repository(), "lost", &lost.digest);
    (known, lost)
}

#[tokio::test]
async fn what_no_event_told_is_seen_once_all_is_asked_for_anew() {
    let bench = Bench::start().await;
    bench.sizing.heard_from("one");
    let (known, lost) = with_a_tag_that_no_event_told(&bench).await;
    let size = async || bench.size(pushed(&known)).await.repository_size;
    assert_eq!(size().await, Some(1 + known.bytes()), "only events move it");
    bench.sizing.heard_from("two");
    assert_eq!(bench.sizing.tags(&repository()), None);
    assert_eq!(size().await, Some(6 + known.bytes() + lost.bytes()));
    assert_eq!(bench.sizing.tags(&repository()), Some(2));
}

#[tokio::test]
async fn the_first_process_that_is_heard_has_all_asked_for_anew_only_if_tags_were_read_before() {
    let bench = Bench::start().await;
    let (known, lost) = with_a_tag_that_no_event_told(&bench).await;
    let size = async || bench.size(pushed(&known)).await.repository_size;
    bench.sizing.heard_from("one");
    assert_eq!(size().await, Some(6 + known.bytes() + lost.bytes()));

    let bench = Bench::start().await;
    for image in [&known, &lost] {
        bench.fake.put(&repository(), image);
    }
    bench.sizing.apply(&tagged("lost", &lost.digest));
    bench.sizing.heard_from("one");
    let size = bench.size(pushed(&known)).await.repository_size;
    assert_eq!(
        size,
        Some(6 + known.bytes() + lost.bytes()),
        "what was told is kept"
    );
}

#[tokio::test]
async fn an_event_that_comes_again_moves_nothing() {
    let bench = Bench::start().await;
    let (old, new) = (Made::image(("c", 1), &[]), Made::image(("x", 5), &[]));
    bench.push("kept", &old);
    bench.push("v1", &old);
    bench.size(pushed(&old)).await;
    bench.fake.put(&repository(), &new);
    bench.sizing.apply_once("quiet", &tagged("v2", &old.digest));
    bench.sizing.apply_once("gone", &untagged("v1"));
    for tag in ["v1", "v2"] {
        bench.sizing.apply(&tagged(tag, &new.digest));
    }
    let size = async || bench.size(pushed(&old)).await.repository_size;
    let both = Some(6 + old.bytes() + new.bytes());
    assert_eq!(size().await, both);
    bench.sizing.apply_once("gone", &untagged("v1"));
    bench.sizing.apply_once("quiet", &tagged("v2", &old.digest));
    assert_eq!(size().await, both);
    // Another one does.
    bench.sizing.apply_once("gone, then", &untagged("v1"));
    bench.sizing.apply_once("again", &untagged("v2"));
    assert_eq!(size().await, Some(1 + old.bytes()));
}

#[tokio::test]
async fn a_repository_that_is_doubted_is_asked_for_anew_and_no_other() {
    let bench = Bench::start().await;
    let (known, lost) = with_a_tag_that_no_event_told(&bench).await;
    bench.fake.put(&other(), &known);
    bench.fake.tag(&other(), "v1", &known.digest);
    let elsewhere = async || {
        let images = vec![pushed(&known)];
        bench.sizing.size(&other(), images, soon()).await[0].repository_size
    };
    let size = async || bench.size(pushed(&known)).await.repository_size;
    let (one, both) = (Some(1 + known.bytes()), Some(6 + known.bytes() + lost.bytes()));
    assert_eq!(elsewhere().await, one);
    bench.sizing.apply(&Change::Doubted {
        repository: repository(),
    });
    bench.fake.take_asked();
    assert_eq!(elsewhere().await, one);
    assert_eq!(bench.fake.calls(), 0);
    assert_eq!(size().await, both);

    // The list may have come too early: the event comes before its tag is written.
    let late = Made::image(("late", 7), &[]);
    bench.fake.put(&repository(), &late);
    bench.fake.tag(&repository(), "late", &late.digest);
    bench.fake.untag(&repository(), "lost");
    bench.sizing.apply(&untagged("lost"));
    pass(Duration::from_secs(5)).await;
    let all = Some(8 + known.bytes() + late.bytes());
    assert_eq!(size().await, all);
    bench.fake.take_asked();
    assert_eq!(size().await, all);
    assert_eq!(bench.fake.calls(), 0, "and no longer");
}

#[tokio::test]
async fn a_sum_over_many_tags_waits_for_those_of_its_repository_alone() {
    let bench = Bench::start().await;
    let image = Made::image(("c", 1), &[]);
    bench.fake.put(&other(), &image);
    for name in [repository(), other()] {
        bench.sizing.apply(&Change::RepositoryDeleted {
            repository: name.clone(),
        });
        for number in 0..1_001 {
            bench.sizing.apply(&Change::Tagged {
                repository: name.clone(),
                tag: format!("v{number}").parse().unwrap(),
                digest: digest_of(&format!("{number}")),
            });
        }
    }
    let known = bench.sizing.0.repositories.get(&repository());
    let places = [
        known.asking().sums.place(1_001).await,
        known.asking().sums.place(1_001).await,
    ];
    assert!(places.iter().all(Option::is_some));
    let asked_for = async |name: &RepositoryName| {
        bench.fake.take_asked();
        let deadline = Instant::now() + Duration::from_millis(500);
        bench.sizing.size(name, vec![pushed(&image)], deadline).await;
        // Beside the image itself.
        bench.fake.take_asked().len() > 8
    };
    assert!(!asked_for(&repository()).await, "it waits");
    assert!(asked_for(&other()).await);
    drop(places);
    assert!(asked_for(&repository()).await);
}

#[tokio::test]
async fn without_an_image_a_repository_is_what_its_tags_name() {
    let bench = Bench::start().await;
    let size = async || bench.sizing.repository_size(&repository(), soon()).await;
    let first = Made::image(("first", 10), &[("base", 1000)]);
    let second = Made::image(("second", 20), &[("base", 1000), ("more", 100)]);
    bench.push("1", &first);
    bench.push("2", &second);
    let manifests = first.bytes() + second.bytes();
    assert_eq!(size().await, Some(10 + 20 + 1000 + 100 + manifests));
    bench.fake.take_asked();

    bench.sizing.apply(&deleted(&second.digest));
    assert_eq!(size().await, Some(10 + 1000 + first.bytes()));
    bench.sizing.apply(&Change::RepositoryDeleted {
        repository: repository(),
    });
    assert_eq!(size().await, Some(0));
    assert_eq!(bench.fake.calls(), 0, "events tell it all");

    // What was pushed and can't be seen is no part of any size, nor is the size without it.
    let unseen = Made::image(("unseen", 30), &[]);
    bench.sizing.apply(&tagged("3", &unseen.digest));
    let at_once = Instant::now() + Duration::from_millis(300);
    assert_eq!(bench.sizing.repository_size(&repository(), at_once).await, None);
}
