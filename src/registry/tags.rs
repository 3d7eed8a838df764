//! `tags/list`, page by page.

use std::sync::atomic::Ordering;

use http::{Method, StatusCode, header};
use serde::Deserialize;
use url::Url;

use super::{Client, RegistryError, absent, challenge, read_capped};
use crate::image::{RepositoryName, Tag};

/// The most bytes of one page that are read.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most pages that are followed.
const PAGES_MAX: usize = 10_000;

/// The most tags that are taken.
const TAGS_MAX: usize = 1_000_000;

/// How many tags a page should have. Distribution 2.8 takes no notice, and 3.x answers 400 where that is more than its
/// `tags.maxtags`, 1000 unless somebody set it lower. Without a number it tells all tags at once.
const PAGE_TAGS: usize = 1000;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Client {
    /// All tags of `repository`; none when the registry doesn't know the repository, which is so until its
    /// first tag is written.
    ///
    /// # Errors
    /// See [`RegistryError`]; a page that is at another origin is malformed.
    pub async fn tags(&self, repository: &RepositoryName) -> Result<Vec<Tag>, RegistryError> {
        let plain = self.url(repository, "tags/list")?;
        let mut url = plain.clone();
        let mut is_sized = !self.0.refuses_page_size.load(Ordering::Relaxed);
        if is_sized {
            url.set_query(Some(&format!("n={PAGE_TAGS}")));
        }
        let mut tags = Vec::new();
        for _ in 0..PAGES_MAX {
            let asked = Box::pin(self.tag_page(repository, &url, &mut tags));
            let next = match self.0.shares.have(repository, asked).await {
                Err(error) if is_sized && error.is_bad_request() => {
                    self.0.refuses_page_size.store(true, Ordering::Relaxed);
                    Some(plain.clone())
                }
                next => next?,
            };
            // From the second page on the registry says what is asked.
            is_sized = false;
            match next {
                None => return Ok(tags),
                Some(next) if next == url => {
                    return Err(RegistryError::Malformed(
                        "a page of tags leads to itself".to_owned(),
                    ));
                }
                Some(next) => url = next,
            }
        }
        Err(RegistryError::Malformed(format!(
            "there are more than {PAGES_MAX} pages of tags"
        )))
    }

    async fn tag_page(
        &self,
        repository: &RepositoryName,
        url: &Url,
        tags: &mut Vec<Tag>,
    ) -> Result<Option<Url>, RegistryError> {
        let response = self.send(Method::GET, url.clone(), repository).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return match absent::said(response, self.0.timeout).await?.as_str() {
                "NAME_UNKNOWN" => Ok(None),
                _ => Err(RegistryError::NotFound),
            };
        }
        let response = self.successful(response).await?;
        let next = next_page(&self.0.base, url, response.headers())?;
        let body = read_capped(response, PAGE_BYTES_MAX, self.0.timeout).await?;
        let page: Page =
            serde_json::from_slice(&body).map_err(|error| RegistryError::Malformed(error.to_string()))?;
        // What is no tag by the spec can't be asked for either.
        let named = page.tags.unwrap_or_default().into_iter();
        tags.extend(named.filter_map(|tag| tag.parse::<Tag>().ok()));
        if tags.len() > TAGS_MAX {
            return Err(RegistryError::Malformed(format!(
                "there are more than {TAGS_MAX} tags"
            )));
        }
        Ok(next)
    }
}

/// Where the next page is: at the path and query that the registry names, and always at the origin that was asked. A
/// registry that knows itself by another name than its proxy's says that one; and where its proxy has it at a path, that of
/// `base`, it may know nothing of that.
fn next_page(base: &Url, url: &Url, headers: &http::HeaderMap) -> Result<Option<Url>, RegistryError> {
    let Some(target) = headers
        .get_all(header::LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(challenge::next_link)
    else {
        return Ok(None);
    };
    let malformed = |what: &str| RegistryError::Malformed(format!("the next page of tags is {what}"));
    let named = url.join(target).map_err(|_| malformed("at no URL"))?;
    if !matches!(named.scheme(), "http" | "https") {
        return Err(malformed("at no URL that a registry can have"));
    }
    let mut next = url.clone();
    if named.path().starts_with(base.path()) {
        next.set_path(named.path());
    } else {
        let base = base.path().trim_end_matches('/');
        next.set_path(&format!("{base}{}", named.path()));
    }
    next.set_query(named.query());
    Ok(Some(next))
}
