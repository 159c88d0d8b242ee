"""Pictures of where a conditional model spends its work.

`plot_token_map` shows documents as flowing text, each word coloured by the number of layers that
processed it. `plot_layer_token_heatmap` shows which token ran in which layer. Both return a
`matplotlib.figure.Figure` to save; nothing is shown and pyplot is never imported. Drawing needs
matplotlib (extra `cli`), importing this package does not.
"""

from .token_map import RoutedDocument as RoutedDocument
from .token_map import plot_layer_token_heatmap as plot_layer_token_heatmap
from .token_map import plot_token_map as plot_token_map
from .token_map import words_from_tokens as words_from_tokens
