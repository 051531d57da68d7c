"""Fonts and colors of the page and its charts. Only system fonts: a closed network has no others."""

from __future__ import annotations

import gradio as gr

FONT = ["system-ui", "Segoe UI", "Roboto", "Noto Sans", "Tahoma", "sans-serif"]
MONO = ["ui-monospace", "Cascadia Mono", "Consolas", "Noto Sans Mono", "monospace"]

# Okabe and Ito's palette: distinct for every kind of color vision, in light and dark.
TRAIN_COLOR = "#0072B2"
VALID_COLOR = "#D55E00"
BEST_COLOR = "#009E73"
MARK_COLOR = "#CC79A7"
AXIS_COLOR = "#7d828a"
RESERVE_COLOR = "rgba(213, 94, 0, 0.16)"  # VALID_COLOR, translucent
HOVER_BACKGROUND, HOVER_COLOR = "rgba(248, 250, 252, 0.96)", "#1f2937"  # in light and dark
GRID_COLOR = "rgba(128, 134, 142, 0.25)"


def build_theme() -> gr.themes.Base:
    """Return Gradio's base theme in blue with system fonts."""
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=MONO)
    # Gradio's own grays and blue have a contrast below 4.5 : 1
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
