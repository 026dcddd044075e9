#!/bin/sh
# Co-trains IEF on the demo community with a tiny CLIP, from scratch: sh co_train_demo.sh [more flags]
# With `--pretrained_clip_name small` the towers are pretrained ones, whose weights are packages (docs/TOWERS.md).
# Installs what is missing (scripts/set_up.sh) and draws the community into data/demo if it is not there. In the end an
# index of its memes is made, to search them by sentences: python -m recommend serve runs/demo/index
CDPATH="" cd "$(dirname "$0")" || exit
. scripts/set_up.sh
set_up_for "$@"
set_up requirements-serve.txt
case " $* " in
  *" --help "* | *" -h "*) exec "$PYTHON" main_task_retrieval.py --help ;;
esac
"$PYTHON" -m preprocess.make_demo --out data/demo || exit
case " $* " in
  *" --resume_model"*) fresh= ;;
  *) fresh=--overwrite ;;
esac
"$PYTHON" main_task_retrieval.py --do_train --datatype demo --data_path data/demo --output_dir runs/demo \
  $fresh --pretrained_clip_name ViT-tiny/8 --epochs 12 --batch_size 64 --lr 1e-3 "$@" || exit
last_value --output_dir "$@"
run=${value:-runs/demo}
for file in index.json progress.json; do # of the model before; a folder that is no index stays
  [ ! -f "$run/index/$file" ] || rm -rf "$run/index"
done
"$PYTHON" -m recommend index --model "$run/checkpoint_best.pt" --data_path data/demo --out "$run/index" || exit
echo "Ask it for a meme: $PYTHON -m recommend serve $run/index"
