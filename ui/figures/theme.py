"""The look: system fonts (a closed network has no others), one accent colour, and the few rules of our own."""

from __future__ import annotations

import gradio as gr

FONT = ["system-ui", "Segoe UI", "Roboto", "Noto Sans", "Tahoma", "sans-serif"]
MONO = ["ui-monospace", "Cascadia Mono", "Consolas", "Noto Sans Mono", "monospace"]

# Okabe and Ito's palette tells apart for every kind of colour vision; in light and dark alike.
TRAIN_COLOUR = "#0072B2"
VALID_COLOUR = "#D55E00"
BEST_COLOUR = "#009E73"
MARK_COLOUR = "#CC79A7"
AXIS_COLOUR = "#7d828a"
RESERVE_COLOUR = "rgba(213, 94, 0, 0.16)"  # VALID_COLOUR, seen through
HOVER_BACKGROUND, HOVER_COLOUR = "rgba(248, 250, 252, 0.96)", "#1f2937"  # in light and dark
GRID_COLOUR = "rgba(128, 134, 142, 0.25)"

CSS = """
.fiducial-head {display: flex; align-items: baseline; gap: .75rem; flex-wrap: wrap; margin: .25rem 0}
.fiducial-head h1 {font-size: 1.35rem; margin: 0}
.fiducial-head span {color: var(--body-text-color-subdued)}
#unusable-gpus p {margin: .25rem 0; padding: .5rem .75rem; border-inline-start: 4px solid #D55E00;
  background: var(--background-fill-secondary); overflow-wrap: anywhere}
footer {display: none !important}  /* of Gradio's links there is the API page alone, which the head leads to */
.dark {--color-accent: var(--primary-400)}  /* on black the darker blue of the light page cannot be read */
.block:has(> .html-container > .prose:empty) {display: none}  /* nothing said takes no room */
.html-container {padding: 0 !important}  /* our HTML stands under what is above it */
.block.hide-container.auto-margin {overflow: visible !important}  /* words do not scroll in a box of their own */
.nav-holder {display: none}  /* Gradio lists the pages; the head leads to the other languages */
.fiducial-head nav {margin-inline-start: auto; display: flex; gap: .75rem}
body:not(.form-restored) #train-form {visibility: hidden}  /* ui/train/form_draft.py shows it as it was left */
#advice .prose {min-height: 2lh}  /* its second line must not move Start away under the mouse */
.number-field .info-text strong {color: var(--body-text-color)}
/* a slider's own number box knows Latin digits alone: ours lies in its corner */
.numbered-slider {position: relative}
.numbered-slider .tab-like-container {visibility: hidden}
.numbered-slider .number-field {position: absolute; top: var(--spacing-lg); inset-inline-end: var(--spacing-lg);
  width: 4rem; min-width: 0 !important}
.numbered-slider .number-field input {padding: .15rem .5rem; text-align: center}
.numbered-slider .field-error {border-color: #c0362c !important}
.numbered-slider:has(.field-error) .info-text {color: #c0362c}
.dark .numbered-slider:has(.field-error) .info-text {color: #ff8a80}
.field-error input, .field-error textarea {border-color: #c0362c !important; box-shadow: 0 0 0 1px #c0362c !important}
.field-error [data-testid="block-info"] ~ *, .field-error .info, .field-error span.info
  {color: #c0362c !important}
.dark .field-error .info, .dark .field-error span.info {color: #ff8a80 !important}
.run-card {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .75rem 1rem;
  background: var(--block-background-fill)}
.run-card .row {display: flex; flex-wrap: wrap; gap: .4rem 1.5rem; align-items: baseline}
.run-card .badge {border-radius: 999px; padding: .1rem .7rem; font-weight: 600; border: 1px solid currentColor}
.badge.running, .badge.stopping {color: #0072B2} .dark .badge.running, .dark .badge.stopping {color: #56B4E9}
.badge.completed, .badge.finished_early {color: #00755a} .dark .badge.completed, .dark .badge.finished_early
  {color: #2fcf9f}
.badge.failed, .badge.diverged, .badge.out_of_memory {color: #b03a00} .dark .badge.failed,
  .dark .badge.diverged, .dark .badge.out_of_memory {color: #ff9d5c}
.run-card progress {width: 100%; height: .8rem; margin-top: .5rem; border: none; border-radius: 999px; overflow: hidden;
  appearance: none; background: var(--border-color-primary)}
.run-card progress::-webkit-progress-bar {background: var(--border-color-primary)}
.run-card progress::-webkit-progress-value {background: #0072B2}
.run-card progress::-moz-progress-bar {background: #0072B2}
#run-card .html-container, #acts-on .html-container, #landmarks .html-container, #curve-values .html-container
  {padding: 0}
.acts-on {color: var(--body-text-color-subdued); margin-top: .75rem}
.acts-on bdi {color: var(--body-text-color); font-weight: 600; overflow-wrap: anywhere}
.sparkline {display: inline-block; vertical-align: middle}
.sparkline polyline {fill: none; stroke: #0072B2; stroke-width: 1.5} .dark .sparkline polyline {stroke: #56B4E9}
#landmarks td {white-space: nowrap}
.values-table {max-height: 22rem; overflow-y: auto}
.values-table th {position: sticky; top: 0; background: var(--block-background-fill)}
#preview-position .tab-like-container {display: none}  /* a number without a meaning: the label names the epoch */
#preview-newest {align-self: end}
.event-list {max-height: 18rem; overflow-y: auto}
@media (pointer: coarse) {#curves .draglayer {pointer-events: none}}  /* a finger scrolls the page, not the axes */
.run-card small, .note {color: var(--body-text-color-subdued)}
.plain-table {overflow-x: auto}
.plain-table:focus-visible {outline: 2px solid var(--color-accent)}
.plain-table th button {all: unset; cursor: pointer}
.plain-table th button:focus-visible {outline: 2px solid var(--color-accent); border-radius: 2px}
.plain-table th button::after {content: "↕"; opacity: .35; margin-inline-start: .25rem; font-weight: 400}
.plain-table th[aria-sort=ascending] button::after {content: "▲"; opacity: 1}
.plain-table th[aria-sort=descending] button::after {content: "▼"; opacity: 1}
.plain-table.opens {max-height: 31rem; overflow-y: auto}
:is(#data-suspects, #data-problems) .plain-table.opens {max-height: 22rem}
.plain-table.opens th {position: sticky; top: 0; background: var(--block-background-fill)}
.plain-table.opens :is(th, td) {text-align: start !important; vertical-align: top}
.plain-table.opens tbody tr {cursor: pointer}
.plain-table.opens tbody tr:hover {background: var(--background-fill-secondary)}
.plain-table.opens td button {all: unset; cursor: pointer; color: var(--link-text-color); overflow-wrap: anywhere}
.plain-table.opens td button:focus-visible {outline: 2px solid var(--color-accent); border-radius: 2px}
.plain-table table {border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums}
.plain-table table, .plain-table tr, .plain-table th, .plain-table td {border: none !important}
.plain-table th, .plain-table td {padding: .25rem .6rem !important; text-align: end !important;
  border-bottom: 1px solid var(--border-color-primary) !important}
.plain-table th:first-child, .plain-table td:first-child {text-align: start !important}
.plain-table mark {background: rgba(230, 159, 0, .28); color: inherit; padding: 0 .3rem; border-radius: 4px}
.verdict.better {color: #00755a; font-weight: 600} .dark .verdict.better {color: #2fcf9f}
.verdict.worse {color: #b03a00; font-weight: 600} .dark .verdict.worse {color: #ff9d5c}
.run-sign {display: inline-block; vertical-align: middle; margin-inline-end: .5rem}
.files a {display: inline-block; margin: .2rem .6rem .2rem 0; padding: .35rem .8rem; border-radius: 6px;
  border: 1px solid var(--border-color-primary); text-decoration: none}
.numbers {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(10.5rem, 45%), 1fr)); gap: .6rem;
  margin: .5rem 0}
.numbers div {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .5rem .75rem;
  background: var(--block-background-fill)}
.numbers strong {display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums}
.numbers small {color: var(--body-text-color-subdued)}
#evaluation-table td, #paired-result td, #compare-values td + td {white-space: nowrap}
.refused, .evaluation-failed {color: #b03a00} .dark .refused, .dark .evaluation-failed {color: #ff9d5c}
.refused *, ul.evaluation-failed li {color: inherit}
.predict-export {align-items: end}
#predict-run input {text-overflow: ellipsis}
#predict-run .secondary-wrap {padding-inline-end: 1.75rem}  /* a long entry ends before the arrow */
.thumbnails {display: flex; gap: .6rem; overflow-x: auto; padding: .25rem}
.thumbnails button {flex: 0 0 8rem; display: flex; flex-direction: column; gap: .2rem; padding: .35rem;
  text-align: start; border: 2px solid var(--border-color-primary); border-radius: 8px;
  background: var(--block-background-fill); color: var(--body-text-color)}
.thumbnails button[aria-pressed=true] {border-color: #0072B2} .dark .thumbnails button[aria-pressed=true]
  {border-color: #56B4E9}
.thumbnails img {width: 100%; height: 6.5rem; object-fit: contain; background: #000; border-radius: 4px; margin: 0}
.thumbnails span {overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-size: .85rem;
  unicode-bidi: isolate}
.thumbnails small {color: var(--body-text-color-subdued); min-height: 1.1em}
#memory-chart {min-height: 358px}
@media (max-width: 480px) {#landmarks table {font-size: .8rem} #landmarks .plain-table :is(th, td)
  {padding: .2rem .25rem !important} .sparkline {width: 32px}}
@media (max-width: 480px) {
  .fiducial-head span {order: 1; flex-basis: 100%}
  .tab-container button {padding: 0 .45rem; font-size: .85rem}
  .plain-table {font-size: .85rem}
  .plain-table th, .plain-table td {padding: .25rem .3rem !important}
}
/* a toast's title is its kind, in English in every language; the sign beside it says so too, and the number is kept */
.toast-title {font-size: 0 !important} .toast-title .toast-count {font-size: var(--text-md)}
/* over a picture a title would hide what is in its corner */
.block:is(#sample, #data-picture, #data-sigma, [id^=preview-], [id^=evaluation-worst-])
  > label[data-testid=block-label] {position: static; width: fit-content}
.problem-list li {margin-bottom: .25rem}
.views {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(9.5rem, 45%), 1fr)); gap: .6rem}
.views figure {margin: 0} .views img {width: 100%; border-radius: 6px; display: block}
.views figcaption {color: var(--body-text-color-subdued); font-size: .85rem; padding: .15rem 0}
/* ui/answers.js: it answers what the inputs held before */
[data-stale] {position: relative}
[data-stale] > *, button[data-stale] {filter: grayscale(1)}
/* words stay readable: to be faint is for pictures */
[data-stale] * {color: var(--body-text-color-subdued) !important}
[data-stale] :is(svg, img, canvas):not(svg *) {opacity: .35}
[data-stale]::after {content: attr(data-stale); position: absolute; inset-block-start: 2px; inset-inline-end: 2px;
  z-index: 5; padding: .05rem .6rem; border-radius: 999px; font-size: .8rem; pointer-events: none; max-width: 100%;
  color: var(--body-background-fill); background: var(--body-text-color)}
.hide-container[data-stale]::after {inset-block-start: -1.1rem}  /* above the words, not over them */
#command[data-stale]::after {inset-inline-end: 4rem}  /* beside its buttons */
[data-stale]:has(.md:empty)::after {content: none}
#recommend, #save-notes {align-self: end; height: auto}
#data-counts .plain-table {max-width: 60rem; margin-bottom: .75rem}
"""


def build_theme() -> gr.themes.Base:
    """Gradio's base theme in blue with system fonts."""
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=MONO)
    # Gradio's own greys and blue fall short of a contrast of 4.5 : 1
    return theme.set(
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        color_accent="*primary_600",
        link_text_color_dark="*primary_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_cancel_text_color="#a3271c",
        button_cancel_text_color_dark="#ffc9c2",
    )
