"""Pictures and pages of the routing of a conditional model.

`plot_token_map` draws documents whose words are coloured by the number of layers that processed
them, `plot_patch_map` images with coloured patches, `plot_layer_token_heatmap` layers by tokens,
and `plot_quality_curve` quality and speed by reduction factor. All return a
`matplotlib.figure.Figure` and never import pyplot. `render_routing_page` returns an HTML page with
a slider for r, `render_routing_fragment` a part of a page. Drawing needs matplotlib and Jinja
(extra `cli`), importing this package does not.
"""

from .patch_map import RoutedImage as RoutedImage
from .patch_map import plot_patch_map as plot_patch_map
from .quality_curve import plot_quality_curve as plot_quality_curve
from .routing_page import RoutedRow as RoutedRow
from .routing_page import RoutedRun as RoutedRun
from .routing_page import fragment_style as fragment_style
from .routing_page import render_routing_fragment as render_routing_fragment
from .routing_page import render_routing_page as render_routing_page
from .token_map import RoutedDocument as RoutedDocument
from .token_map import plot_layer_token_heatmap as plot_layer_token_heatmap
from .token_map import plot_token_map as plot_token_map
from .token_map import words_from_tokens as words_from_tokens
